// NMS: greedy and class by class, over the candidates of all levels of an image.
//
// Grid (images). Each level's candidates come sorted; a candidate's place in the order of all is its place in its own
// list and, by binary search, the number before it in the others: logit descending, then level. The candidates then
// go through in chunks of a block: each is held against those kept so far, and then, best first, against its chunk.
// At most max_detections steps are serial.
//
// Writes every slot of num_detections: [N], boxes: [N, max_detections, 4], scores and labels: [N, max_detections];
// zeros past num_detections. An IoU of 0/0, or of NaN, suppresses nothing, as in the specification.
#include "block.cuh"

#define THREADS 1024
#define MAX_LEVELS 6
#define MAX_TOP_K 1024
#define MAX_DETECTIONS 1024
#define MAX_CANDIDATES (MAX_LEVELS * MAX_TOP_K)

struct Box {
    float x1, y1, x2, y2;
};

// NaN wins, as in NumPy's minimum and maximum.
__device__ __forceinline__ float lower(float a, float b) { return a < b || a != a ? a : b; }
__device__ __forceinline__ float upper(float a, float b) { return a > b || a != a ? a : b; }

__device__ __forceinline__ float area(const Box& box) { return (box.x2 - box.x1) * (box.y2 - box.y1); }

__device__ __forceinline__ bool overlaps(const Box& kept, const Box& box, float threshold) {
    const float width = upper(lower(kept.x2, box.x2) - upper(kept.x1, box.x1), 0.0f);
    const float height = upper(lower(kept.y2, box.y2) - upper(kept.y1, box.y1), 0.0f);
    const float both = width * height;
    return both / (area(kept) + area(box) - both) > threshold;
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
    const key_t32 none = to_key(minus_infinity());

    for (int i = threadIdx.x; i < candidates; i += THREADS) keys[i] = to_key(logits[i]);
    __syncthreads();
    for (int i = threadIdx.x; i < candidates; i += THREADS) {
        const int level = i / top_k;
        int place = i - level * top_k;
        for (int other = 0; other < levels; other++) {
            if (other == level) continue;
            int low = 0, high = top_k;
            while (low < high) {
                const int middle = (low + high) / 2;
                const key_t32 key = keys[other * top_k + middle];
                if (key > keys[i] || (key == keys[i] && other < level)) low = middle + 1;
                else high = middle;
            }
            place += low;
        }
        order[place] = (unsigned short)i;
    }
    __syncthreads();

    int num = 0;  // the same for all threads
    for (int first = 0; first < candidates && num < max_detections; first += THREADS) {
        if (keys[order[first]] == none) break;  // sorted: nothing but empty slots from here on
        const int place = first + threadIdx.x;
        const int candidate = place < candidates ? order[place] : 0;
        bool alive = place < candidates && keys[candidate] != none;
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
        }  // the barriers of its last round stand between kept and the next chunk
    }
    for (int i = num + threadIdx.x; i < max_detections; i += THREADS) {
        const Box nothing = {0.0f, 0.0f, 0.0f, 0.0f};
        ((Box*)kept_boxes)[out + i] = nothing;
        kept_scores[out + i] = 0.0f;
        kept_labels[out + i] = 0;
    }
    if (threadIdx.x == 0) num_detections[blockIdx.x] = num;
}
