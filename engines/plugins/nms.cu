// NMS: greedy class-aware non-maximum suppression over the candidates of all levels of an image.
//
// The grid is (images). The candidates of each level are sorted already. A candidate's rank among all candidates, by
// logit descending and then by level, is its place in its own list plus the number of candidates before it in the other
// lists. A binary search finds this number. Then the candidates are processed in chunks, best first, with one candidate
// for each thread. Each candidate of a chunk is compared with all kept boxes, and then with each box of the chunk that
// is newly kept. At most max_detections steps are serial.
//
// The kernel writes every element of num_detections: [N], boxes: [N, max_detections, 4], and scores and labels:
// [N, max_detections]. Rows past num_detections are zero. An IoU of 0/0 or NaN suppresses nothing, as in the
// specification.
#include "block.cuh"

#define THREADS 1024
#define MAX_LEVELS 6
#define MAX_TOP_K 1024
#define MAX_DETECTIONS 1024
#define MAX_CANDIDATES (MAX_LEVELS * MAX_TOP_K)

struct Box {
    float x1, y1, x2, y2;
};

// If an argument is NaN, the result is NaN, as in NumPy's minimum and maximum.
__device__ __forceinline__ float lower(float a, float b) { return a < b || a != a ? a : b; }
__device__ __forceinline__ float upper(float a, float b) { return a > b || a != a ? a : b; }

__device__ __forceinline__ float area(const Box& box) { return (box.x2 - box.x1) * (box.y2 - box.y1); }

__device__ __forceinline__ bool overlaps(const Box& kept, const Box& box, float threshold) {
    const float width = upper(lower(kept.x2, box.x2) - upper(kept.x1, box.x1), 0.0f);
    const float height = upper(lower(kept.y2, box.y2) - upper(kept.y1, box.y1), 0.0f);
    const float intersection = width * height;
    return intersection / (area(kept) + area(box) - intersection) > threshold;
}

extern "C" __global__ void __launch_bounds__(THREADS)
ENTRY(const float* __restrict__ logits, const float* __restrict__ boxes, const int* __restrict__ labels,
      const float* __restrict__ parameters, int levels, int top_k, int max_detections,
      int* __restrict__ num_detections, float* __restrict__ kept_boxes, float* __restrict__ kept_scores,
      int* __restrict__ kept_labels) {
    __shared__ key_t32 keys[MAX_CANDIDATES];
    __shared__ unsigned short order[MAX_CANDIDATES], kept[MAX_DETECTIONS];
    __shared__ key_t32 alive_lanes[WARP];

    const int candidates = levels * top_k;
    logits += (size_t)blockIdx.x * candidates;
    labels += (size_t)blockIdx.x * candidates;
    const Box* const box_of = (const Box*)boxes + (size_t)blockIdx.x * candidates;
    const size_t out = (size_t)blockIdx.x * max_detections;
    const float threshold = parameters[1];
    const key_t32 no_candidate = to_key(minus_infinity());

    for (int i = threadIdx.x; i < candidates; i += THREADS) keys[i] = to_key(logits[i]);
    __syncthreads();
    for (int i = threadIdx.x; i < candidates; i += THREADS) {
        const int level = i / top_k;
        int rank = i - level * top_k;
        for (int other = 0; other < levels; other++) {
            if (other == level) continue;
            int low = 0, high = top_k;
            while (low < high) {
                const int middle = (low + high) / 2;
                const key_t32 key = keys[other * top_k + middle];
                if (key > keys[i] || (key == keys[i] && other < level)) low = middle + 1;
                else high = middle;
            }
            rank += low;
        }
        order[rank] = (unsigned short)i;
    }
    __syncthreads();

    int num = 0;  // has the same value in all threads
    for (int first = 0; first < candidates && num < max_detections; first += THREADS) {
        if (keys[order[first]] == no_candidate) break;  // sorted, so only empty places follow
        const int rank = first + threadIdx.x;
        const int candidate = rank < candidates ? order[rank] : 0;
        bool alive = rank < candidates && keys[candidate] != no_candidate;
        const Box box = box_of[candidate];
        const int label = labels[candidate];
        for (int i = 0; i < num && alive; i++) {
            if (labels[kept[i]] == label && overlaps(box_of[kept[i]], box, threshold)) alive = false;
        }
        while (num < max_detections) {
            const key_t32 lanes = __ballot_sync(ALL_LANES, alive);
            if (threadIdx.x % WARP == 0) alive_lanes[threadIdx.x / WARP] = lanes;
            __syncthreads();
            const key_t32 warps = __ballot_sync(ALL_LANES, alive_lanes[threadIdx.x % WARP] != 0);
            const int warp = __ffs((int)warps) - 1;
            const int best = warps ? warp * WARP + __ffs((int)alive_lanes[warp]) - 1 : -1;
            __syncthreads();
            if (best < 0) break;
            const int winner = order[first + best];
            if ((int)threadIdx.x == best) {
                kept[num] = (unsigned short)candidate;
                ((Box*)kept_boxes)[out + num] = box;
                kept_labels[out + num] = label;
                kept_scores[out + num] = 1.0f / (1.0f + expf(-from_key(keys[candidate])));
                alive = false;
            }
            if (alive && labels[winner] == label && overlaps(box_of[winner], box, threshold)) alive = false;
            num++;
        }  // a barrier of the last round separates the writes to kept from the reads of the next chunk
    }
    for (int i = num + threadIdx.x; i < max_detections; i += THREADS) {
        const Box zeros = {0.0f, 0.0f, 0.0f, 0.0f};
        ((Box*)kept_boxes)[out + i] = zeros;
        kept_scores[out + i] = 0.0f;
        kept_labels[out + i] = 0;
    }
    if (threadIdx.x == 0) num_detections[blockIdx.x] = num;
}
