// One kernel as a function that Python can call. SOURCE, ENTRY, LEVELS and HALF are macros on the command line.
#include "cuda.h"
#include SOURCE

#define POINTER(i) (const scalar*)inputs[FIRST + i]

struct Arguments {
    const void** inputs;
    const int* n;
    void** outputs;
};

// Runs one thread of the kernel.
static void run_thread(const void* arguments) {
    const auto [inputs, n, outputs] = *(const Arguments*)arguments;
#if defined(FILTER)
#define FIRST 0
#define COUNT(i) n[i]
    ENTRY(EACH_LEVEL(POINTER), (const float*)inputs[LEVELS], EACH_LEVEL(COUNT), n[LEVELS], n[LEVELS + 1],
          (int*)outputs[0], (int*)outputs[1], (int*)outputs[2]);
#elif defined(SELECT)
#define FIRST 3
#define SIZE(i) n[2 * i], n[2 * i + 1]
    const int* const rest = n + 2 * LEVELS;
    ENTRY((const int*)inputs[0], (const int*)inputs[1], (const int*)inputs[2], EACH_LEVEL(POINTER),
          (const float*)inputs[3 + LEVELS], EACH_LEVEL(SIZE), rest[0], rest[1], rest[2], rest[3], (float*)outputs[0],
          (float*)outputs[1], (int*)outputs[2]);
#elif defined(LETTERBOX)
    ENTRY((const unsigned char*)inputs[0], n[0], n[1], (unsigned char*)outputs[0]);
#else
    ENTRY((const float*)inputs[0], (const float*)inputs[1], (const int*)inputs[2], (const float*)inputs[3], n[0], n[1],
          n[2], (int*)outputs[0], (float*)outputs[1], (float*)outputs[2], (int*)outputs[3]);
#endif
}

// Sets the seed for the order of threads in later runs; see cuda.h.
extern "C" void set_order(uint32_t seed) { emulator::seed = seed; }

// Runs the kernel on a grid of x by y blocks. inputs and outputs point to arrays, n to the integers of the launch plan.
// Returns 0, or 1 if not all threads reach a barrier.
extern "C" int run(int x, int y, int threads, const void** inputs, const int* n, void** outputs) {
    const Arguments arguments = {inputs, n, outputs};
    return emulator::launch(x, y, threads, run_thread, &arguments);
}

// Returns the largest number of barriers that a block passed in the last run.
extern "C" int barriers() { return emulator::barriers; }

// Returns the largest number of times that the lanes of a warp waited for each other in the last run.
extern "C" int exchanges() { return emulator::exchanges; }
