// Filter: collects the class logits above the threshold from each tile of a level, at most the best top_k.
//
// The grid is (tiles of all levels, images). The kernel reads every logit once, in loads of 16 bytes, from the NCHW
// layout of the heads, so no transpose, concatenation or sigmoid is needed before. The order of the results within a
// tile varies, and Select sorts them.
//
// The outputs are count: [N, tiles], and keys and index: [N, tiles, top_k]. Elements of keys and index past count are
// undefined.
#include "block.cuh"

#define THREADS 512
#define MAX_TOP_K 1024
#define VECTOR (16 / (int)sizeof(scalar))
// Number of loads of 16 bytes that a thread issues before it looks at the first.
#define LOADS 4

#define CLS_POINTER(i) const scalar *__restrict__ cls_##i
#define CLS_NAME(i) cls_##i
#define COUNT_PARAMETER(i) int logits_##i
#define COUNT_NAME(i) logits_##i

struct alignas(16) Loaded {
    scalar values[VECTOR];
};

__device__ __forceinline__ float widen(scalar value) { return load(&value); }

extern "C" __global__ void __launch_bounds__(THREADS)
ENTRY(EACH_LEVEL(CLS_POINTER), const float* __restrict__ parameters, EACH_LEVEL(COUNT_PARAMETER), int tile, int top_k,
      int* __restrict__ keys, int* __restrict__ index, int* __restrict__ count) {
    __shared__ key_t32 found_keys[MAX_TOP_K];
    __shared__ int found_index[MAX_TOP_K];
    __shared__ int histogram[BINS], warp_sums[WARP], picked[2], found;

    // Find the level of this tile. After unrolling, the indices in this loop are constant; with a variable index, the
    // compiler would put the arrays into memory instead of registers.
    const scalar* const pointers[LEVELS] = {EACH_LEVEL(CLS_NAME)};
    const int counts[LEVELS] = {EACH_LEVEL(COUNT_NAME)};
    const scalar* level = pointers[0];
    int logits = counts[0], block = blockIdx.x, level_index = 0;
#pragma unroll
    for (int i = 1; i < LEVELS; i++) {
        const int tiles = tiles_of(counts[i - 1], tile);
        if (level_index == i - 1 && block >= tiles) {
            block -= tiles;
            level_index = i;
            level = pointers[i];
            logits = counts[i];
        }
    }
    const int start = block * tile, size = min(tile, logits - start);
    const scalar* const values = level + (size_t)blockIdx.y * logits + start;
    // If the number of logits on a level is not a multiple of VECTOR, the logits of the next image are not aligned to
    // 16 bytes. Therefore a few logits at both ends are loaded one by one.
    const int offset = (int)((size_t)values % 16 / sizeof(scalar));
    const int head = min((VECTOR - offset) % VECTOR, size);
    const int body = head + (size - head) / VECTOR * VECTOR;
    const int stride = THREADS * VECTOR;
    // threadIdx.y is always 0. With the constant 0, the compiler would put the threshold into a uniform register, and for
    // that wait until the threshold has arrived, before it issues the first loads of logits.
    const float threshold = parameters[threadIdx.y];
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    auto keep = [&](float x, int i) {
        if (x > threshold) {  // false for NaN
            const int slot = atomicAdd(&found, 1);
            if (slot < top_k) {
                found_keys[slot] = to_key(x);
                found_index[slot] = start + i;
            }
        }
    };
    for (int first = head + threadIdx.x * VECTOR; first < body; first += LOADS * stride) {
        Loaded loaded[LOADS];
#pragma unroll
        for (int k = 0; k < LOADS; k++) {
            if (first + k * stride < body) loaded[k] = *(const Loaded*)(values + first + k * stride);
        }
        unsigned int hits = 0;
#pragma unroll
        for (int k = 0; k < LOADS; k++) {
            bool any = false;
#pragma unroll
            for (int j = 0; j < VECTOR; j++) any |= widen(loaded[k].values[j]) > threshold;
            if (any && first + k * stride < body) hits |= 1u << k;
        }
        // Hits are rare. To load them again, from the cache, takes less code than to handle each register.
        for (; hits; hits &= hits - 1) {
            const int i = first + (__ffs((int)hits) - 1) * stride;
            const Loaded again = *(const Loaded*)(values + i);
#pragma unroll
            for (int j = 0; j < VECTOR; j++) keep(widen(again.values[j]), i + j);
        }
    }
    const int tail = body + threadIdx.x;
    if ((int)threadIdx.x < head) keep(load(values + threadIdx.x), threadIdx.x);
    if (tail < size) keep(load(values + tail), tail);
    __syncthreads();

    int total = found;
    if (total > top_k) {
        // This is rare: the threshold is far too low. Find the top_k-th largest key by radix selection. Keep all logits
        // with larger keys, and of those with this key the ones with the lowest indices.
        key_t32 pivot = 0, mask = 0;
        int wanted = top_k;
        for (int shift = 24; shift >= 0; shift -= 8) {
            for (int i = threadIdx.x; i < BINS; i += THREADS) histogram[i] = 0;
            __syncthreads();
            for (int i = threadIdx.x; i < size; i += THREADS) {
                const float x = load(values + i);
                const key_t32 key = to_key(x);
                if (x > threshold && (key & mask) == pivot) atomicAdd(&histogram[key >> shift & (BINS - 1)], 1);
            }
            __syncthreads();
            pivot |= (key_t32)pick_digit<THREADS>(histogram, wanted, warp_sums, picked) << shift;
            mask |= (key_t32)(BINS - 1) << shift;
        }
        if (threadIdx.x == 0) found = 0;
        __syncthreads();
        int equals = 0;
        for (int first = 0; first < size; first += THREADS) {
            const int i = first + threadIdx.x;
            const float x = i < size ? load(values + i) : minus_infinity();
            const key_t32 key = to_key(x);
            const bool passes = x > threshold;
            if (passes && key > pivot) {
                const int slot = atomicAdd(&found, 1);
                found_keys[slot] = key;
                found_index[slot] = start + i;
            }
            if (equals < wanted) {  // true for all threads or for none
                const bool equal = passes && key == pivot;
                int more;
                const int rank = equals + sum_before<THREADS>(equal, warp_sums, more);
                if (equal && rank < wanted) {
                    found_keys[top_k - wanted + rank] = key;
                    found_index[top_k - wanted + rank] = start + i;
                }
                equals += more;
            }
        }
        __syncthreads();
        total = top_k;
    }
    const size_t slot = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) count[slot] = total;
    for (int i = threadIdx.x; i < total; i += THREADS) {
        keys[slot * top_k + i] = (int)found_keys[i];
        index[slot * top_k + i] = found_index[i];
    }
}
