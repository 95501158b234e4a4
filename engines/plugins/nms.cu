// NMS: greedy non-maximum suppression over the candidates of all levels of an image, class-aware or class-agnostic.
//
// The grid is (images). The candidates of each level are sorted already. A candidate's rank among all candidates, by
// logit descending and then by level, is its place in its own list plus the number of candidates before it in the other
// lists. A binary search finds this number. Then the candidates are processed in chunks, best first:
//
// 1. All threads compare the chunk with the boxes kept so far. The survivors move together.
// 2. All threads compare the survivors with each other, which gives a matrix of bits.
// 3. One warp goes through the matrix and finds the boxes to keep, a group of 32 candidates at a time. Only this part
//    is serial, and it needs no barrier of the block.
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

#define CHUNK 256
#define GROUPS (CHUNK / WARP)  // a group is what a warp compares
// Pairs of a group and itself or a better group.
#define PAIRS (GROUPS * (GROUPS + 1) / 2)

#define UNROLLED 8  // number of comparisons whose code comes one after the other

struct alignas(16) Box {
    float x1, y1, x2, y2;
};

struct Candidate {
    Box box;
    int label;
    float logit;
};

// The boxes kept so far, and after them the boxes of the chunk, in shared memory.
#define CHUNK_START MAX_DETECTIONS
#define MAX_BOXES (MAX_DETECTIONS + CHUNK)

// Memory of a block. The keys are needed only until the order is known.
__shared__ struct {
    union {
        key_t32 keys[MAX_CANDIDATES];
        struct {
            Box boxes[MAX_BOXES];
            int labels[MAX_BOXES];
        };
    };
    float logits[CHUNK];
    // Labels to write. The labels above are those to compare; for class-agnostic NMS, they are all 0.
    int output_labels[CHUNK];
    // For a pair of groups, lane i has a bit for each candidate of the better group that overlaps candidate i of the
    // other group.
    key_t32 overlaps[PAIRS][WARP];
    key_t32 alive[GROUPS], winners[GROUPS];
    int counts[MAX_LEVELS];
    unsigned short order[MAX_CANDIDATES];
} shared;

__device__ __forceinline__ float area(const Box& box) { return (box.x2 - box.x1) * (box.y2 - box.y1); }

// fminf and fmaxf ignore NaN, unlike NumPy's minimum and maximum. That changes no IoU, because a box with NaN also has
// NaN as its area.
__device__ __forceinline__ float intersection(const Box& a, const Box& b) {
    const float width = fmaxf(fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1), 0.0f);
    const float height = fmaxf(fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1), 0.0f);
    return width * height;
}

__device__ __forceinline__ float iou(const Box& a, const Box& b) {
    const float common = intersection(a, b);
    return common / (area(a) + area(b) - common);
}

// Returns true if the intersection may be larger than 0: never if a coordinate is NaN.
__device__ __forceinline__ bool touch(const Box& a, const Box& b) {
    return (a.x1 < b.x2) & (b.x1 < a.x2) & (a.y1 < b.y2) & (b.y1 < a.y2);
}

// Returns a bit for each of 32 boxes in shared memory that is wanted and suppresses a box. Few boxes of a
// class touch each other, so the division is left to a second loop, in which each lane has its own few boxes. The
// threshold is not negative, so boxes that do not touch can be left out. Inlined in two places, this would take more
// registers than there are.
__device__ __noinline__ key_t32 suppressors(int first, key_t32 wanted, Box box, int label, float threshold) {
    key_t32 touching = 0, result = 0;
#pragma unroll 1
    for (int start = 0; start < WARP; start += UNROLLED) {
        key_t32 bits = 0;
#pragma unroll
        for (int i = 0; i < UNROLLED; i++) {
            const int other = first + start + i;
            bits |= (key_t32)((shared.labels[other] == label) & touch(shared.boxes[other], box)) << i;
        }
        touching |= bits << start;
    }
    for (touching &= wanted; touching; touching &= touching - 1) {
        const int i = __ffs((int)touching) - 1;
        if (iou(shared.boxes[first + i], box) > threshold) result |= 1u << i;
    }
    return result;
}

// Returns the number of bits before a position in a list of words. Sets total to the number of all bits.
__device__ __forceinline__ int bits_before(const key_t32* words, int position, int& total) {
    const int last = min(position / WARP, GROUPS - 1);
    int before = 0;
    total = 0;
#pragma unroll
    for (int i = 0; i < GROUPS; i++) {
        if (i == last) before = total;
        total += __popc(words[i]);
    }
    return before + __popc(words[last] & ((1u << position % WARP) - 1));
}

// Writes the indices of the candidates to order, best first. Returns their number.
__device__ int rank_candidates(const float* logits, int levels, int top_k) {
    if (threadIdx.x < MAX_LEVELS) shared.counts[threadIdx.x] = 0;
    __syncthreads();
    for (int rank = threadIdx.x; rank < top_k; rank += THREADS) {
        float loaded[MAX_LEVELS];
#pragma unroll
        for (int level = 0; level < MAX_LEVELS; level++) {
            loaded[level] = level < levels ? logits[level * top_k + rank] : minus_infinity();
        }
#pragma unroll
        for (int level = 0; level < MAX_LEVELS; level++) {
            if (loaded[level] > minus_infinity()) {
                shared.keys[level * top_k + rank] = to_key(loaded[level]);
                atomicAdd(&shared.counts[level], 1);
            }
        }
    }
    __syncthreads();
    int total = 0;
#pragma unroll
    for (int level = 0; level < MAX_LEVELS; level++) total += shared.counts[level];
    for (int i = threadIdx.x; i < total; i += THREADS) {
        int level = 0, rank = i;
        while (rank >= shared.counts[level]) rank -= shared.counts[level++];
        const int candidate = level * top_k + rank;
        const key_t32 key = shared.keys[candidate];
        for (int other = 0; other < levels; other++) {
            if (other == level) continue;
            int low = 0, high = shared.counts[other];
            while (low < high) {
                const int middle = (low + high) / 2;
                const key_t32 other_key = shared.keys[other * top_k + middle];
                if (other_key > key || (other_key == key && other < level)) low = middle + 1;
                else high = middle;
            }
            rank += low;
        }
        shared.order[rank] = (unsigned short)candidate;
    }
    __syncthreads();
    return total;
}

// Returns bits of the kept boxes that suppress a box, 0 if none does. Each slice looks at other kept boxes.
__device__ __noinline__ key_t32 compare_with_kept(Box box, int label, int slice, int slices, int num, float threshold) {
    key_t32 result = 0;
    for (int i = slice * WARP; i < num && !result; i += slices * WARP) {
        const key_t32 wanted = num - i < WARP ? (1u << (num - i)) - 1 : ALL_LANES;
        result = suppressors(i, wanted, box, label, threshold);
    }
    return result;
}

// Fills the matrix of overlaps between the candidates of a chunk.
__device__ void compare_candidates(int candidates, float threshold) {
    const int lane = threadIdx.x % WARP, groups = (candidates + WARP - 1) / WARP;
    for (int pair = threadIdx.x / WARP; pair < groups * (groups + 1) / 2; pair += THREADS / WARP) {
        int group = 0, better = pair;
        while (better > group) better -= ++group;
        const int i = CHUNK_START + group * WARP + lane;
        const key_t32 wanted = better == group ? (1u << lane) - 1 : ALL_LANES;
        shared.overlaps[pair][lane] =
            suppressors(CHUNK_START + better * WARP, wanted, shared.boxes[i], shared.labels[i], threshold);
    }
}

// Finds the candidates of a chunk to keep, at most as many as there is room for, and writes their bits to winners. Only
// one warp calls this.
__device__ void pick_winners(int candidates, int room) {
    const int lane = threadIdx.x % WARP;
    key_t32 winners[GROUPS];
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        winners[group] = 0;
        if (group * WARP >= candidates) continue;
        const key_t32(*const overlaps)[WARP] = shared.overlaps + group * (group + 1) / 2;
        const key_t32 own = overlaps[group][lane];
        key_t32 suppressed = 0;
#pragma unroll
        for (int better = 0; better < group; better++) suppressed |= overlaps[better][lane] & winners[better];
        const bool alive = group * WARP + lane < candidates && !suppressed;
        // Suppose that all lanes win, and let the winners suppress others, until nothing changes. Lane i is right after
        // at most i rounds, because only better lanes suppress it; usually, two or three rounds are enough.
        key_t32 before, word = __ballot_sync(ALL_LANES, alive);
        do {
            before = word;
            word = __ballot_sync(ALL_LANES, alive && !(own & before));
        } while (word != before);
        if (__popc(word) > room) {
            const bool fits = __popc(word & ((1u << lane) - 1)) < room;
            word = __ballot_sync(ALL_LANES, fits && (word >> lane & 1));
        }
        room -= __popc(word);
        winners[group] = word;
    }
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
        if (lane == group) shared.winners[group] = winners[group];
    }
}

// There are only a few blocks, so each may use registers that a second block on its multiprocessor would need.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
ENTRY(const float* __restrict__ logits, const float* __restrict__ boxes, const int* __restrict__ labels,
      const float* __restrict__ parameters, int levels, int top_k, int max_detections,
      int* __restrict__ num_detections, float* __restrict__ kept_boxes, float* __restrict__ kept_scores,
      int* __restrict__ kept_labels) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, place = threadIdx.x;
    const size_t start = (size_t)blockIdx.x * levels * top_k, out = (size_t)blockIdx.x * max_detections;
    const float threshold = parameters[1];
    const bool agnostic = parameters[5] != 0.0f;
    const int candidates = rank_candidates(logits + start, levels, top_k);
    auto read = [&](int rank) {
        if (place >= CHUNK || rank >= candidates) return Candidate{};
        const size_t i = start + shared.order[rank];
        return Candidate{((const Box*)boxes)[i], labels[i], logits[i]};
    };
    Candidate candidate = read(place);

    int num = 0;  // has the same value in all threads
    for (int first = 0; first < candidates && num < max_detections;) {
        // The last chunk is smaller, if it takes only a few of its candidates to fill the room that is left.
        const int room = max_detections - num, groups = min(GROUPS, (2 * room + WARP - 1) / WARP);
        const int size = min(groups * WARP, candidates - first);
        const int compared_label = agnostic ? 0 : candidate.label;
        if (place < size) {
            shared.boxes[CHUNK_START + place] = candidate.box;
            shared.labels[CHUNK_START + place] = compared_label;
        }
        if (place < GROUPS) shared.alive[place] = place < groups ? ALL_LANES : 0;
        __syncthreads();

        const int group = warp % groups, slice = warp / groups, slices = THREADS / WARP / groups;
        if (slice < slices) {
            const int i = CHUNK_START + group * WARP + lane;
            const key_t32 suppressed =
                compare_with_kept(shared.boxes[i], shared.labels[i], slice, slices, num, threshold);
            const key_t32 alive = __ballot_sync(ALL_LANES, i < CHUNK_START + size && !suppressed);
            if (lane == 0) atomicAnd((int*)&shared.alive[group], (int)alive);
        }
        __syncthreads();

        int survivors;
        const int survivor = bits_before(shared.alive, place, survivors);
        if (place < CHUNK && (shared.alive[place / WARP] >> lane & 1)) {
            shared.boxes[CHUNK_START + survivor] = candidate.box;
            shared.labels[CHUNK_START + survivor] = compared_label;
            shared.logits[survivor] = candidate.logit;
            shared.output_labels[survivor] = candidate.label;
        }
        __syncthreads();

        compare_candidates(survivors, threshold);
        first += size;
        const Candidate next = read(first + place);  // arrives while one warp picks the winners
        __syncthreads();

        if (warp == 0) pick_winners(survivors, room);
        __syncthreads();

        int kept;
        const int winner = bits_before(shared.winners, place, kept);
        if (place < CHUNK && (shared.winners[place / WARP] >> lane & 1)) {
            const Box box = shared.boxes[CHUNK_START + place];
            shared.boxes[num + winner] = box;
            shared.labels[num + winner] = shared.labels[CHUNK_START + place];
            const size_t row = out + num + winner;
            float* const kept_box = kept_boxes + row * 4;
            kept_box[0] = box.x1;
            kept_box[1] = box.y1;
            kept_box[2] = box.x2;
            kept_box[3] = box.y2;
            kept_scores[row] = 1.0f / (1.0f + expf(-shared.logits[place]));
            kept_labels[row] = shared.output_labels[place];
        }
        num += kept;
        candidate = next;
        // No barrier here: in the next round, a thread writes only over the candidate that it has just read itself.
    }
    for (int i = num + threadIdx.x; i < max_detections; i += THREADS) {
        for (int side = 0; side < 4; side++) kept_boxes[(out + i) * 4 + side] = 0.0f;
        kept_scores[out + i] = 0.0f;
        kept_labels[out + i] = 0;
    }
    if (threadIdx.x == 0) num_detections[blockIdx.x] = num;
}
