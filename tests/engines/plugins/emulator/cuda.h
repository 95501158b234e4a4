// The part of CUDA that is needed to run the source of a kernel on a CPU: the threads of a block are fibers, and one
// block runs after another.
//
// A fiber runs until it waits at a barrier of the block, or for the other lanes of its warp. A warp runs to its next
// barrier before the next warp runs; on a GPU, warps cannot drift further apart. If some threads never reach a barrier,
// the emulator reports an error, while a GPU would hang or do worse.
#pragma once
#define EMULATED
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Index {
    unsigned int x = 0, y = 0, z = 0;
};

namespace emulator {

enum State { READY, AT_BARRIER, IN_WARP, DONE };

struct Fiber {
    jmp_buf position;
    std::vector<char> stack = std::vector<char>(128 * 1024);
    bool started = false;
    State state = DONE;
};

inline std::vector<Fiber> fibers;
inline jmp_buf scheduler;
inline ucontext_t start;
inline int current;
inline Index block, grid, thread;
inline uint32_t lanes[32][32];
inline std::function<void()> kernel;
// With 0, lanes, warps and blocks run in their natural order. With other seeds the order is shuffled, again at each
// barrier, so that a kernel that lacks a barrier or depends on the order of blocks gives another result.
inline uint32_t seed = 0, random_state;

inline void shuffle(std::vector<int>& order, int count) {
    order.resize(count);
    for (int i = 0; i < count; i++) order[i] = i;
    if (!seed) return;
    for (int i = count - 1; i > 0; i--) {
        random_state = random_state * 1664525u + 1013904223u;
        std::swap(order[i], order[(random_state >> 8) % (i + 1)]);
    }
}

// Contexts are used only to start fibers, because each switch with a context is a system call, and a jump is not.
inline void wait(State state) {
    fibers[current].state = state;
    if (!_setjmp(fibers[current].position)) _longjmp(scheduler, 1);
}

inline void run_fiber() {
    for (;;) {
        kernel();
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
    start.uc_stack.ss_sp = next.stack.data();
    start.uc_stack.ss_size = next.stack.size();
    start.uc_link = nullptr;
    makecontext(&start, run_fiber, 0);
    setcontext(&start);
}

// Runs a warp until it waits for the other warps or ends.
inline void run_warp(int warp) {
    std::vector<int> order;
    for (int waiting = 32; waiting == 32;) {
        shuffle(order, 32);
        waiting = 0;
        for (const int lane : order) {
            Fiber& fiber = fibers[warp * 32 + lane];
            if (fiber.state == READY) resume(warp * 32 + lane);
            waiting += fiber.state == IN_WARP;
        }
        if (waiting == 32)
            for (int lane = 0; lane < 32; lane++) fibers[warp * 32 + lane].state = READY;
    }
}

// Runs a block. Returns 0, or 1 if threads wait for other threads that have ended.
inline int run_block(int threads) {
    if ((int)fibers.size() < threads) fibers.resize(threads);
    for (int i = 0; i < threads; i++) fibers[i].state = READY;
    std::vector<int> order;
    for (;;) {
        shuffle(order, threads / 32);
        for (const int warp : order) run_warp(warp);
        int at_barrier = 0, done = 0;
        for (int i = 0; i < threads; i++) {
            at_barrier += fibers[i].state == AT_BARRIER;
            done += fibers[i].state == DONE;
        }
        if (done == threads) return 0;
        if (at_barrier != threads) return 1;
        for (int i = 0; i < threads; i++) fibers[i].state = READY;
    }
}

inline int launch(int x, int y, int threads, std::function<void()> body) {
    kernel = body;
    grid.x = x;
    grid.y = y;
    random_state = seed;
    std::vector<int> order;
    shuffle(order, x * y);
    for (const int i : order) {
        block.x = i % x;
        block.y = i / x;
        if (run_block(threads)) return 1;
    }
    return 0;
}

inline uint32_t exchange(uint32_t value, int from) {
    const int warp = current / 32, lane = current % 32;
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
    const int lane = emulator::current % 32;
    return (int)emulator::exchange((uint32_t)value, lane >= step ? lane - step : lane);
}

inline uint32_t __ballot_sync(uint32_t, bool value) {
    const int warp = emulator::current / 32;
    emulator::lanes[warp][emulator::current % 32] = value;
    emulator::wait(emulator::IN_WARP);
    uint32_t votes = 0;
    for (int lane = 0; lane < 32; lane++) votes |= emulator::lanes[warp][lane] << lane;
    emulator::wait(emulator::IN_WARP);
    return votes;
}

inline int atomicAdd(int* address, int value) {
    const int before = *address;
    *address += value;
    return before;
}

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
