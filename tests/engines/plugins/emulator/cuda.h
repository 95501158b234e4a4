// The part of CUDA that is needed to run the source of a kernel on a CPU: the threads of a block are fibers, and one
// block runs after another.
//
// A fiber runs until it waits at a barrier of the block, or for the other lanes of its warp. A warp runs to its next
// barrier before the next warp runs; on a GPU, warps cannot drift further apart. If some threads never reach a barrier,
// the emulator reports an error, while a GPU would hang or do worse.
//
// Only headers of C are included, because those of C++ would take longer to compile than a kernel.
#pragma once
#define EMULATED
#include <assert.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __shared__ static

struct Index {
    unsigned int x = 0, y = 0, z = 0;
};

namespace emulator {

enum State { READY, AT_BARRIER, IN_WARP, DONE };

const int LANES = 32, MAX_THREADS = 1024, STACK = 32 * 1024;

struct Fiber {
    jmp_buf position;
    bool started;
    State state;
};

static Fiber fibers[MAX_THREADS];
alignas(64) static char stacks[MAX_THREADS][STACK];
static jmp_buf scheduler;
static ucontext_t start;
static int current;
static Index block, grid, thread;
static uint32_t lanes[LANES][LANES];
static void (*kernel)(const void*);
static const void* arguments;
// With 0, lanes, warps and blocks run in their natural order. With other seeds the order is shuffled, again at each
// barrier, so that a kernel that lacks a barrier or depends on the order of blocks gives another result.
static uint32_t seed = 0, random_state;
// The largest number of barriers of a block, and of exchanges between the lanes of a warp in the last launch.
static int barriers, exchanges;
static int exchanges_of[MAX_THREADS / LANES];

inline void shuffle(int* order, int count) {
    for (int i = 0; i < count; i++) order[i] = i;
    if (!seed) return;
    for (int i = count - 1; i > 0; i--) {
        random_state = random_state * 1664525u + 1013904223u;
        const int other = (random_state >> 8) % (i + 1), swapped = order[i];
        order[i] = order[other];
        order[other] = swapped;
    }
}

// Contexts are used only to start fibers, because each switch with a context is a system call, and a jump is not.
inline void wait(State state) {
    fibers[current].state = state;
    if (!_setjmp(fibers[current].position)) _longjmp(scheduler, 1);
}

inline void run_fiber() {
    for (;;) {
        kernel(arguments);
        wait(DONE);
    }
}

inline void resume(int fiber) {
    current = fiber;
    thread.x = fiber;
    if (_setjmp(scheduler)) return;
    Fiber& next = fibers[fiber];
    if (next.started) _longjmp(next.position, 1);
    next.started = true;
    getcontext(&start);
    start.uc_stack.ss_sp = stacks[fiber];
    // The ends of the stacks differ, so that they do not all compete for the same lines of the cache.
    start.uc_stack.ss_size = STACK - fiber % 64 * 128;
    start.uc_link = nullptr;
    makecontext(&start, run_fiber, 0);
    setcontext(&start);
}

// Runs a warp until it waits for the other warps or ends.
inline void run_warp(int warp) {
    int order[LANES];
    for (int waiting = LANES; waiting == LANES;) {
        shuffle(order, LANES);
        waiting = 0;
        for (const int lane : order) {
            Fiber& fiber = fibers[warp * LANES + lane];
            if (fiber.state == READY) resume(warp * LANES + lane);
            waiting += fiber.state == IN_WARP;
        }
        if (waiting == LANES) {
            for (int lane = 0; lane < LANES; lane++) fibers[warp * LANES + lane].state = READY;
            exchanges_of[warp]++;
        }
    }
}

// Runs a block. Returns 0, or 1 if threads wait for other threads that have ended.
inline int run_block(int threads) {
    int order[MAX_THREADS / LANES];
    for (int i = 0; i < threads; i++) fibers[i].state = READY;
    memset(exchanges_of, 0, sizeof exchanges_of);
    for (int passed = 0;; passed++) {
        shuffle(order, threads / LANES);
        for (int i = 0; i < threads / LANES; i++) run_warp(order[i]);
        int at_barrier = 0, done = 0;
        for (int i = 0; i < threads; i++) {
            at_barrier += fibers[i].state == AT_BARRIER;
            done += fibers[i].state == DONE;
        }
        if (passed > barriers) barriers = passed;
        for (int i = 0; i < threads / LANES; i++)
            // The lanes wait twice in an exchange; see below.
            if (exchanges_of[i] / 2 > exchanges) exchanges = exchanges_of[i] / 2;
        if (done == threads) return 0;
        if (at_barrier != threads) return 1;
        for (int i = 0; i < threads; i++) fibers[i].state = READY;
    }
}

// Runs a function with its arguments in every thread of a grid of x by y blocks. Returns 0, or 1 as run_block.
inline int launch(int x, int y, int threads, void (*function)(const void*), const void* values) {
    assert(threads <= MAX_THREADS && threads % LANES == 0);
    kernel = function;
    arguments = values;
    grid.x = x;
    grid.y = y;
    random_state = seed;
    barriers = exchanges = 0;
    int* const order = (int*)malloc(sizeof(int) * x * y);
    shuffle(order, x * y);
    int failed = 0;
    for (int i = 0; i < x * y && !failed; i++) {
        block.x = order[i] % x;
        block.y = order[i] / x;
        failed = run_block(threads);
    }
    free(order);
    return failed;
}

inline uint32_t exchange(uint32_t value, int from) {
    const int warp = current / LANES, lane = current % LANES;
    lanes[warp][lane] = value;
    wait(IN_WARP);
    const uint32_t received = lanes[warp][from];
    wait(IN_WARP);  // no lane writes again before all lanes have read
    return received;
}

}  // namespace emulator

#define threadIdx emulator::thread
#define blockIdx emulator::block
#define gridDim emulator::grid

inline void __syncthreads() { emulator::wait(emulator::AT_BARRIER); }

inline int __shfl_up_sync(uint32_t, int value, int step) {
    const int lane = emulator::current % emulator::LANES;
    return (int)emulator::exchange((uint32_t)value, lane >= step ? lane - step : lane);
}

inline uint64_t __shfl_xor_sync(uint32_t, uint64_t value, int mask) {
    const int from = emulator::current % emulator::LANES ^ mask;
    const uint64_t high = emulator::exchange((uint32_t)(value >> 32), from);
    return high << 32 | emulator::exchange((uint32_t)value, from);
}

inline uint32_t __ballot_sync(uint32_t, bool value) {
    const int warp = emulator::current / emulator::LANES;
    emulator::lanes[warp][emulator::current % emulator::LANES] = value;
    emulator::wait(emulator::IN_WARP);
    uint32_t votes = 0;
    for (int lane = 0; lane < emulator::LANES; lane++) votes |= emulator::lanes[warp][lane] << lane;
    emulator::wait(emulator::IN_WARP);
    return votes;
}

inline int atomicAdd(int* address, int value) {
    const int before = *address;
    *address += value;
    return before;
}

inline int atomicAnd(int* address, int value) {
    const int before = *address;
    *address &= value;
    return before;
}

inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int min(int a, int b) { return a < b ? a : b; }

inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline float half_to_float(unsigned short bits) {
    _Float16 x;
    memcpy(&x, &bits, 2);
    return (float)x;
}
