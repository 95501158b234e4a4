// Select: keeps the best top_k candidates of each level, sorts them and decodes their boxes.
//
// The grid is (levels, images). A radix selection picks the best candidates by 64 bits: the key, then the index, lowest
// first. These 64 bits are unique, so the result does not depend on the order in which Filter wrote the candidates.
// Then a bitonic sort orders the candidates, and each box is decoded from four deltas.
//
// The kernel writes every element of logits and labels: [N, levels * top_k], and boxes: [N, levels * top_k, 4]. Places
// without a candidate get the logit -inf, and zeros as box and label. The arithmetic has the order of operations of
// engines/plugins/specification.py. In both, NaN in a delta gives NaN in the box.
#include "block.cuh"

#define THREADS 1024
#define HEADER 8  // size of the header of the parameters; see engines/plugins/parameters.py

#define BOX_POINTER(i) const scalar *__restrict__ box_##i
#define BOX_NAME(i) box_##i
#define SIZE_PARAMETERS(i) int height_##i, int width_##i
#define HEIGHT_NAME(i) height_##i
#define WIDTH_NAME(i) width_##i

__device__ __forceinline__ float clip(float x, float limit) { return x < 0.0f ? 0.0f : x > limit ? limit : x; }

// There are only a few blocks, so each may use registers that a second block on its multiprocessor would need.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
ENTRY(const int* __restrict__ keys, const int* __restrict__ index, const int* __restrict__ count,
      EACH_LEVEL(BOX_POINTER), const float* __restrict__ parameters, EACH_LEVEL(SIZE_PARAMETERS), int anchors,
      int classes, int tile, int top_k, float* __restrict__ logits, float* __restrict__ boxes,
      int* __restrict__ labels) {
    __shared__ key_t64 best[THREADS];
    __shared__ int histogram[BINS], warp_sums[WARP], picked[2], found;

    const scalar* const pointers[LEVELS] = {EACH_LEVEL(BOX_NAME)};
    const int heights[LEVELS] = {EACH_LEVEL(HEIGHT_NAME)}, widths[LEVELS] = {EACH_LEVEL(WIDTH_NAME)};
    const int level = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const scalar* deltas = pointers[0];
    int height = 1, width = 1, tiles_before = 0, tiles = 0, tiles_of_all = 0;
#pragma unroll
    for (int i = 0; i < LEVELS; i++) {
        const int tiles_of_level = (anchors * classes * heights[i] * widths[i] + tile - 1) / tile;
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

    int count_of_thread = 0, total;
    for (int t = threadIdx.x; t < tiles; t += THREADS) count_of_thread += count[first_tile + t];
    sum_before<THREADS>(count_of_thread, warp_sums, total);

    // Each warp reads one tile at a time, because most tiles hold few candidates. The index is inverted, so that among
    // equal keys the lower index is the larger number.
    auto for_each_candidate = [&](auto&& visit) {
        for (int t = warp; t < tiles; t += THREADS / WARP) {
            const int candidates = count[first_tile + t];
            for (int i = lane; i < candidates; i += WARP) {
                const size_t slot = (first_tile + t) * top_k + i;
                visit((key_t64)(key_t32)keys[slot] << 32 | (key_t32)~index[slot]);
            }
        }
    };
    key_t64 pivot = 0, mask = 0;
    if (total > top_k) {
        int wanted = top_k;
        for (int shift = 56; shift >= 0; shift -= 8) {
            for (int i = threadIdx.x; i < BINS; i += THREADS) histogram[i] = 0;
            __syncthreads();
            for_each_candidate([&](key_t64 key) {
                if ((key & mask) == pivot) atomicAdd(&histogram[(int)(key >> shift) & (BINS - 1)], 1);
            });
            __syncthreads();
            const int digit = pick_digit<THREADS>(histogram, wanted, warp_sums, picked);
            const bool exact = histogram[digit] == wanted;  // all keys with this digit are wanted
            pivot |= (key_t64)digit << shift;
            mask |= (key_t64)(BINS - 1) << shift;
            __syncthreads();
            if (exact) break;
        }
    }
    if (threadIdx.x == 0) found = 0;
    best[threadIdx.x] = 0;  // less than every key
    __syncthreads();
    for_each_candidate([&](key_t64 key) {
        if ((key & mask) >= pivot) best[atomicAdd(&found, 1)] = key;
    });
    __syncthreads();
    for (int run = 2; run <= THREADS; run *= 2) {
        for (int step = run / 2; step > 0; step /= 2) {
            const int i = threadIdx.x, other = i ^ step;
            if (other > i) {
                const key_t64 a = best[i], b = best[other];
                if ((i & run) == 0 ? a < b : a > b) {
                    best[i] = b;
                    best[other] = a;
                }
            }
            __syncthreads();
        }
    }

    const int rank = threadIdx.x;
    if (rank >= top_k) return;
    const size_t out = ((size_t)blockIdx.y * LEVELS + level) * top_k + rank;
    float logit = minus_infinity(), box[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    int label = 0;
    if (best[rank] != 0) {
        const int flat = (int)~(key_t32)best[rank], positions = height * width;
        const int channel = flat / positions, position = flat - channel * positions;
        const int anchor = channel / classes;
        const int y = position / width, x = position - y * width;
        const scalar* const delta = deltas + ((size_t)blockIdx.y * anchors + anchor) * 4 * positions + position;
        const float* const cell = parameters + HEADER + (level * anchors + anchor) * 4;
        const float* const stride = parameters + HEADER + LEVELS * anchors * 4 + level * 2;
#pragma unroll
        for (int axis = 0; axis < 2; axis++) {
            const float shift = (float)(axis ? y : x) * stride[axis];
            const float low = shift + cell[axis], side = shift + cell[axis + 2] - low;
            const float center = load(delta + axis * (size_t)positions) * side + (low + 0.5f * side);
            const float log_side = load(delta + (axis + 2) * (size_t)positions);
            const float longest = parameters[2];
            const float half = 0.5f * (expf(log_side > longest ? longest : log_side) * side);
            box[axis] = clip(center - half, parameters[3 + axis]);
            box[axis + 2] = clip(center + half, parameters[3 + axis]);
        }
        logit = from_key((key_t32)(best[rank] >> 32));
        label = channel - anchor * classes;
    }
    logits[out] = logit;
    labels[out] = label;
#pragma unroll
    for (int i = 0; i < 4; i++) boxes[out * 4 + i] = box[i];
}
