// Code that the kernels share: sortable keys, loads of heads, and sums over a block.
//
// No other header is included, so that NVRTC needs no include path. The tests also run the kernels on a CPU, with a
// fiber for each thread, so the kernels use only a few of CUDA's own functions.
#pragma once

#ifndef EMULATED
// Converts the bits of a float16 with the instruction cvt, because the header cuda_fp16.h would need an include path.
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
#endif

typedef unsigned int key_t32;
typedef unsigned long long key_t64;

#define WARP 32
#define ALL_LANES 0xffffffffu

// A list with one item for each pyramid level. LEVELS is a macro on the compiler's command line.
#if LEVELS == 2
#define EACH_LEVEL(item) item(0), item(1)
#elif LEVELS == 3
#define EACH_LEVEL(item) item(0), item(1), item(2)
#elif LEVELS == 4
#define EACH_LEVEL(item) item(0), item(1), item(2), item(3)
#elif LEVELS == 5
#define EACH_LEVEL(item) item(0), item(1), item(2), item(3), item(4)
#elif LEVELS == 6
#define EACH_LEVEL(item) item(0), item(1), item(2), item(3), item(4), item(5)
#endif

// Returns a key whose unsigned order is the order of the floats. -0 becomes +0 first, because the two are equal and
// must get equal keys: among equal logits, the one with the lower index comes first.
__device__ __forceinline__ key_t32 to_key(float x) {
    key_t32 bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float from_key(key_t32 key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xff800000u); }

// Float16 heads are read as 16-bit integers.
#ifdef HALF
typedef unsigned short scalar;
__device__ __forceinline__ float load(const scalar* address) { return half_to_float(*address); }
#else
typedef float scalar;
__device__ __forceinline__ float load(const scalar* address) { return *address; }
#endif

// Returns the number of tiles of a level. The size of a tile is a power of two, because a division takes long.
__device__ __forceinline__ int tiles_of(int logits, int tile) {
    return (int)(((unsigned int)logits + tile - 1) >> (__ffs(tile) - 1));
}

// Returns the sum of a value over the threads before this one. Sets total to the sum over all threads of the block.
// Ends with a barrier.
template <int THREADS>
__device__ int sum_before(int value, int* warp_sums, int& total) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int sum = value;
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
        const int other = __shfl_up_sync(ALL_LANES, sum, step);
        if (lane >= step) sum += other;
    }
    if (lane == WARP - 1) warp_sums[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        int sums = lane < THREADS / WARP ? warp_sums[lane] : 0;
#pragma unroll
        for (int step = 1; step < WARP; step *= 2) {
            const int other = __shfl_up_sync(ALL_LANES, sums, step);
            if (lane >= step) sums += other;
        }
        if (lane < THREADS / WARP) warp_sums[lane] = sums;
    }
    __syncthreads();
    total = warp_sums[THREADS / WARP - 1];
    const int before = sum - value + (warp ? warp_sums[warp - 1] : 0);
    __syncthreads();
    return before;
}

#define BINS 256

// One step of a radix selection: returns the digit of the number with rank wanted, given a histogram of the digits. The
// largest number has rank 1. Sets wanted to the rank of that number among the numbers with the same digit. Requires
// THREADS >= BINS.
template <int THREADS>
__device__ int pick_digit(const int* histogram, int& wanted, int* warp_sums, int* result) {
    const int bin = BINS - 1 - (int)threadIdx.x;
    const int count = bin >= 0 ? histogram[bin] : 0;
    int total;
    const int above = sum_before<THREADS>(count, warp_sums, total);
    if (bin >= 0 && above < wanted && above + count >= wanted) {
        result[0] = bin;
        result[1] = wanted - above;
    }
    __syncthreads();
    wanted = result[1];
    return result[0];  // safe without a barrier, because the next call passes one before it writes to result
}
