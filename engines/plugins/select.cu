// Select: keeps the best top_k candidates of each level, sorts them and decodes their boxes.
//
// The grid is (levels, images). Candidates are compared by 64 bits: the key, then the index, lowest first. These 64 bits
// are unique, so the result does not depend on the order in which Filter wrote the candidates. If a level has more than
// top_k candidates, a radix selection picks the best. Then a bitonic sort orders the candidates, and each box is decoded
// from four deltas. The candidates to sort lie in registers, so only the longest steps of the sort need shared memory
// and barriers.
//
// The kernel writes every element of logits and labels: [N, levels * top_k], and boxes: [N, levels * top_k, 4]. Places
// without a candidate get the logit -inf, and zeros as box and label. The arithmetic has the order of operations of
// engines/plugins/specification.py. In both, NaN in a delta gives NaN in the box.
#include "block.cuh"

#define THREADS 512
#define MAX_TOP_K 1024
#define PER_THREAD (MAX_TOP_K / THREADS)
#define RUNS MAX_TOP_K
#define BATCH 4  // number of candidates that a thread reads at the same time, if there are more than top_k
#define HEADER 8  // size of the header of the parameters; see engines/plugins/parameters.py

#define BOX_POINTER(i) const scalar *__restrict__ box_##i
#define BOX_NAME(i) box_##i
#define SIZE_PARAMETERS(i) int height_##i, int width_##i
#define HEIGHT_NAME(i) height_##i
#define WIDTH_NAME(i) width_##i

__device__ __forceinline__ float clip(float x, float limit) { return x < 0.0f ? 0.0f : x > limit ? limit : x; }

// The candidates of a level, which Filter left in tiles.
struct Level {
    const int *keys, *index, *count;  // of the first tile
    int top_k, total;
    // Each of the RUNS entries is the number of candidates before a run of tiles. A run is one tile, if there are few.
    const int* before;
    int tiles_of_run;

    // Reads the candidates first, first + stride and so on as numbers with 64 bits, all at the same time. The index is
    // inverted, so that among equal keys the lower index is the larger number. Past the last candidate, the number is
    // 0, which is less than every candidate.
    template <int COUNT>
    __device__ __forceinline__ void read(int first, int stride, key_t64 (&numbers)[COUNT]) const {
        int run[COUNT] = {};
        for (int step = RUNS / 2; step > 0; step /= 2) {
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                if (before[run[i] + step] <= first + i * stride) run[i] += step;
            }
        }
        size_t slots[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            int tile = run[i] * tiles_of_run, rest = first + i * stride - before[run[i]];
            if (tiles_of_run > 1 && first + i * stride < total) {
                for (; rest >= count[tile]; tile++) rest -= count[tile];
            }
            slots[i] = (size_t)tile * top_k + rest;
        }
        // All loads come before the first use, because the threads wait at the use.
        int key[COUNT], position[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const bool exists = first + i * stride < total;
            key[i] = exists ? keys[slots[i]] : 0;
            position[i] = exists ? index[slots[i]] : ~0;
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) numbers[i] = (key_t64)(key_t32)key[i] << 32 | (key_t32)~position[i];
    }

    // Calls a function with each candidate. All threads of the block share the work.
    template <typename Visit>
    __device__ __forceinline__ void for_each(Visit visit) const {
        for (int first = threadIdx.x; first < total; first += BATCH * THREADS) {
            key_t64 numbers[BATCH];
            read(first, THREADS, numbers);
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                if (numbers[i]) visit(numbers[i]);
            }
        }
    }
};

// Keeps the larger or the smaller of two numbers.
__device__ __forceinline__ void keep(key_t64& mine, key_t64 other, bool larger) {
    if (larger == (mine < other)) mine = other;
}

// Sorts MAX_TOP_K numbers, largest first, all of which are 0 from count on. Thread i has the numbers from
// i * PER_THREAD. The two buffers take turns, so that a step needs one barrier only.
__device__ __forceinline__ void sort(key_t64 (&mine)[PER_THREAD], int count, key_t64 (*buffers)[MAX_TOP_K]) {
    const int first = threadIdx.x * PER_THREAD;
    int turn = 0;
    for (int run = 2; run < 2 * count; run *= 2) {
        int step = run / 2;
        for (; step >= PER_THREAD * WARP; step /= 2) {
            key_t64* const buffer = buffers[turn ^= 1];
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) buffer[i * THREADS + threadIdx.x] = mine[i];
            __syncthreads();
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) {
                const key_t64 other = buffer[i * THREADS + (threadIdx.x ^ step / PER_THREAD)];
                keep(mine[i], other, !(first & run) == !(first & step));
            }
        }
        for (; step >= PER_THREAD; step /= 2) {
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) {
                const key_t64 other = __shfl_xor_sync(ALL_LANES, mine[i], step / PER_THREAD);
                keep(mine[i], other, !(first & run) == !(first & step));
            }
        }
#pragma unroll
        for (int near = PER_THREAD / 2; near > 0; near /= 2) {
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) {
                if (i & near || near >= run) continue;
                const key_t64 a = mine[i], b = mine[i + near];
                const bool larger = !((first + i) & run);
                keep(mine[i], b, larger);
                keep(mine[i + near], a, !larger);
            }
        }
    }
}

// There are only a few blocks, so each may use registers that a second block on its multiprocessor would need.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
ENTRY(const int* __restrict__ keys, const int* __restrict__ index, const int* __restrict__ count,
      EACH_LEVEL(BOX_POINTER), const float* __restrict__ parameters, EACH_LEVEL(SIZE_PARAMETERS), int anchors,
      int classes, int tile, int top_k, float* __restrict__ logits, float* __restrict__ boxes,
      int* __restrict__ labels) {
    __shared__ key_t64 buffers[2][MAX_TOP_K], best[MAX_TOP_K];
    __shared__ int before[RUNS], histogram[BINS], warp_sums[WARP], picked[2], num_best, num_undecided;

    const scalar* const pointers[LEVELS] = {EACH_LEVEL(BOX_NAME)};
    const int heights[LEVELS] = {EACH_LEVEL(HEIGHT_NAME)}, widths[LEVELS] = {EACH_LEVEL(WIDTH_NAME)};
    const int level = blockIdx.x;
    const scalar* deltas = pointers[0];
    int height = 1, width = 1, tiles_before = 0, tiles = 0, tiles_of_all = 0;
#pragma unroll
    for (int i = 0; i < LEVELS; i++) {
        const int tiles_of_level = tiles_of(anchors * classes * heights[i] * widths[i], tile);
        if (i < level) tiles_before += tiles_of_level;
        if (i == level) {
            deltas = pointers[i];
            height = heights[i];
            width = widths[i];
            tiles = tiles_of_level;
        }
        tiles_of_all += tiles_of_level;
    }
    const size_t first_tile = (size_t)blockIdx.y * tiles_of_all + tiles_before;
    Level all = {keys + first_tile * top_k, index + first_tile * top_k, count + first_tile, top_k, 0,
                 before, (tiles + RUNS - 1) / RUNS};

    int counts[PER_THREAD] = {}, count_of_thread = 0;
#pragma unroll 1
    for (int t = 0; t < all.tiles_of_run; t++) {
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) {
            const int tile_of_run = (threadIdx.x * PER_THREAD + i) * all.tiles_of_run + t;
            if (tile_of_run < tiles) counts[i] += all.count[tile_of_run];
        }
    }
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) count_of_thread += counts[i];
    int sum = sum_before<THREADS>(count_of_thread, warp_sums, all.total);
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        before[threadIdx.x * PER_THREAD + i] = sum;
        sum += counts[i];
    }
    if (threadIdx.x == 0) num_best = num_undecided = 0;
    __syncthreads();

    const int own = threadIdx.x * PER_THREAD;
    key_t64 mine[PER_THREAD];
    if (all.total <= top_k) {
        all.read(own, 1, mine);
    } else {
        // Fix one digit after another of the top_k-th number, until the numbers with these digits fit into a buffer.
        key_t64 pivot = 0, mask = 0;
        int wanted = top_k, undecided = all.total;
        for (int shift = 56; undecided > MAX_TOP_K; shift -= 8) {
            for (int i = threadIdx.x; i < BINS; i += THREADS) histogram[i] = 0;
            __syncthreads();
            all.for_each([&](key_t64 number) {
                if ((number & mask) == pivot) atomicAdd(&histogram[(int)(number >> shift) & (BINS - 1)], 1);
            });
            __syncthreads();
            const int digit = pick_digit<THREADS>(histogram, wanted, warp_sums, picked);
            undecided = histogram[digit];
            pivot |= (key_t64)digit << shift;
            mask |= (key_t64)(BINS - 1) << shift;
            __syncthreads();
        }
        all.for_each([&](key_t64 number) {
            if ((number & mask) > pivot) best[atomicAdd(&num_best, 1)] = number;
            if ((number & mask) == pivot) buffers[0][atomicAdd(&num_undecided, 1)] = number;
        });
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) mine[i] = own + i < undecided ? buffers[0][own + i] : 0;
        sort(mine, undecided, buffers);
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) {
            if (own + i < wanted) best[top_k - wanted + own + i] = mine[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) mine[i] = own + i < top_k ? best[own + i] : 0;
    }
    sort(mine, min(all.total, top_k), buffers);

    const int positions = height * width;
    const float* const cells = parameters + HEADER + level * anchors * 4;
    const float* const stride = parameters + HEADER + LEVELS * anchors * 4 + level * 2;
    const float longest = parameters[2], limits[2] = {parameters[3], parameters[4]};
    float decoded[PER_THREAD][4];
    int decoded_labels[PER_THREAD];
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        // Places without a candidate decode some box as well: without a branch, the loads of all boxes of a thread are
        // in flight together.
        const int flat = mine[i] ? (int)~(key_t32)mine[i] : 0;
        const int channel = flat / positions, position = flat - channel * positions;
        const int anchor = channel / classes;
        const int y = position / width, x = position - y * width;
        const scalar* const delta = deltas + ((size_t)blockIdx.y * anchors + anchor) * 4 * positions + position;
        const float* const cell = cells + anchor * 4;
        decoded_labels[i] = channel - anchor * classes;
#pragma unroll
        for (int axis = 0; axis < 2; axis++) {
            const float shift = (float)(axis ? y : x) * stride[axis];
            const float low = shift + cell[axis], side = shift + cell[axis + 2] - low;
            const float center = load(delta + axis * (size_t)positions) * side + (low + 0.5f * side);
            const float log_side = load(delta + (axis + 2) * (size_t)positions);
            const float half = 0.5f * (expf(log_side > longest ? longest : log_side) * side);
            decoded[i][axis] = clip(center - half, limits[axis]);
            decoded[i][axis + 2] = clip(center + half, limits[axis]);
        }
    }
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        const int rank = own + i;
        if (rank >= top_k) return;
        const bool exists = mine[i] != 0;
        const size_t out = ((size_t)blockIdx.y * LEVELS + level) * top_k + rank;
        logits[out] = exists ? from_key((key_t32)(mine[i] >> 32)) : minus_infinity();
        labels[out] = exists ? decoded_labels[i] : 0;
#pragma unroll
        for (int side = 0; side < 4; side++) boxes[out * 4 + side] = exists ? decoded[i][side] : 0.0f;
    }
}
