// A libcuda without a GPU, for tests with the real pycuda and cuda-bindings: device memory is host memory, copies happen
// at once, and kernels do nothing. Uses without a context, double frees, and work on the default stream count as errors.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define CALL extern "C" int

typedef unsigned long long Pointer;
enum Kind { STREAM, EVENT, MODULE, GRAPH, LAUNCHABLE, KINDS };

static std::mutex lock;
static std::set<Pointer> memory, pinned, registered;
static int alive[KINDS], errors, launches, captures;
static thread_local std::vector<void*> contexts;

static int checked() {
    if (!contexts.empty()) return 0;
    std::lock_guard<std::mutex> held(lock);
    errors++;
    return 201;  // CUDA_ERROR_INVALID_CONTEXT
}

static int change(Kind kind, int by) {
    std::lock_guard<std::mutex> held(lock);
    alive[kind] += by;
    return 0;
}

static int make(Kind kind, void** out) {
    static uintptr_t numbers = 0x1000;
    if (int failed = checked()) return failed;
    *out = (void*)numbers++;
    return change(kind, 1);
}

static int drop(Kind kind) {
    if (int failed = checked()) return failed;
    return change(kind, -1);
}

static int allocate(std::set<Pointer>& where, Pointer* out, size_t size) {
    if (int failed = checked()) return failed;
    *out = (Pointer)calloc(1, size);
    std::lock_guard<std::mutex> held(lock);
    where.insert(*out);
    return 0;
}

static int release(std::set<Pointer>& where, Pointer pointer) {
    if (int failed = checked()) return failed;
    std::lock_guard<std::mutex> held(lock);
    if (!where.erase(pointer)) errors++;
    free((void*)pointer);
    return 0;
}

static int copy(void* to, const void* from, size_t size, void* stream) {
    if (int failed = checked()) return failed;
    if (!stream) errors++;
    memcpy(to, from, size);
    return 0;
}

CALL cuInit(unsigned) { return 0; }
CALL cuDriverGetVersion(int* version) { *version = 13000; return 0; }
CALL cuDeviceGet(int* device, int number) { *device = 0; return number ? 101 : 0; }
CALL cuDeviceGetCount(int* count) { *count = 1; return 0; }
CALL cuDeviceGetAttribute(int* value, int attribute, int) {
    *value = attribute == 18 && getenv("INTEGRATED");  // CU_DEVICE_ATTRIBUTE_INTEGRATED
    return 0;
}
CALL cuDevicePrimaryCtxRetain(void** context, int) { *context = (void*)0x10; return 0; }
CALL cuCtxPushCurrent_v2(void* context) { contexts.push_back(context); return 0; }
CALL cuCtxPopCurrent_v2(void** context) {
    if (contexts.empty()) return 201;
    if (context) *context = contexts.back();
    contexts.pop_back();
    return 0;
}
CALL cuCtxGetCurrent(void** context) { *context = contexts.empty() ? nullptr : contexts.back(); return 0; }
CALL cuCtxGetDevice(int* device) { *device = 0; return contexts.empty() ? 201 : 0; }

CALL cuMemAlloc_v2(Pointer* out, size_t size) { return allocate(memory, out, size); }
CALL cuMemFree_v2(Pointer pointer) { return release(memory, pointer); }
CALL cuPointerGetAttribute(void* value, int attribute, Pointer pointer) {
    if (int failed = checked()) return failed;
    std::lock_guard<std::mutex> held(lock);
    const bool known = attribute == 9 && memory.count(pointer);
    *(int*)value = 0;
    return known ? 0 : 1;  // CUDA_ERROR_INVALID_VALUE
}
CALL cuMemHostAlloc(void** out, size_t size, unsigned) { return allocate(pinned, (Pointer*)out, size); }
CALL cuMemFreeHost(void* pointer) { return release(pinned, (Pointer)pointer); }
CALL cuMemHostRegister_v2(void* pointer, size_t size, unsigned flags) {
    if (int failed = checked()) return failed;
    std::lock_guard<std::mutex> held(lock);
    // Whole pages, and mapped only on an integrated GPU.
    if ((uintptr_t)pointer % 4096 || size % 4096 || !registered.insert((Pointer)pointer).second) errors++;
    if ((flags == 2) != !!getenv("INTEGRATED")) errors++;
    return 0;
}
CALL cuMemHostUnregister(void* pointer) {
    if (int failed = checked()) return failed;
    std::lock_guard<std::mutex> held(lock);
    if (!registered.erase((Pointer)pointer)) errors++;
    return 0;
}
CALL cuMemHostGetDevicePointer_v2(Pointer* out, void* pointer, unsigned) { *out = (Pointer)pointer; return checked(); }
CALL cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t size, void* stream) {
    return copy((void*)to, from, size, stream);
}
CALL cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t size, void* stream) {
    return copy(to, (void*)from, size, stream);
}

CALL cuStreamCreate(void** out, unsigned) { return make(STREAM, out); }
CALL cuStreamDestroy_v2(void*) { return drop(STREAM); }
CALL cuStreamSynchronize(void*) { return checked(); }
CALL cuStreamWaitEvent(void*, void*, unsigned) { return checked(); }
CALL cuEventCreate(void** out, unsigned) { return make(EVENT, out); }
CALL cuEventDestroy_v2(void*) { return drop(EVENT); }
CALL cuEventRecord(void*, void*) { return checked(); }
CALL cuEventSynchronize(void*) { return checked(); }
CALL cuEventElapsedTime(float* milliseconds, void*, void*) { *milliseconds = 1; return checked(); }
CALL cuEventElapsedTime_v2(float* milliseconds, void*, void*) { *milliseconds = 1; return checked(); }

CALL cuModuleLoadDataEx(void** out, const void* ptx, unsigned, void*, void*) {
    if (!strstr((const char*)ptx, "\n.version 7.0\n")) errors++;
    return make(MODULE, out);
}
CALL cuModuleUnload(void*) { return drop(MODULE); }
CALL cuModuleGetFunction(void** out, void*, const char*) { *out = (void*)0x20; return checked(); }
CALL cuLaunchKernel(
    void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void* stream, void**, void**) {
    std::lock_guard<std::mutex> held(lock);
    launches++;
    if (!stream) errors++;
    return contexts.empty() ? 201 : 0;
}

CALL cuStreamBeginCapture_v2(void*, int mode) { captures++; return mode == 1 ? checked() : 1; }
CALL cuStreamEndCapture(void*, void** graph) { return make(GRAPH, graph); }
CALL cuGraphInstantiateWithFlags(void** out, void*, unsigned long long) { return make(LAUNCHABLE, out); }
CALL cuGraphLaunch(void*, void* stream) { return stream ? checked() : 1; }
CALL cuGraphDestroy(void*) { return drop(GRAPH); }
CALL cuGraphExecDestroy(void*) { return drop(LAUNCHABLE); }

CALL cuGetProcAddress_v2(const char* name, void** out, int, unsigned long long, void*) {
    *out = dlsym(RTLD_DEFAULT, (std::string(name) + "_v2").c_str());
    if (!*out) *out = dlsym(RTLD_DEFAULT, name);
    return 0;
}

// Queries of the test: launches, captures, blocks of registered memory, and the number of errors and of resources that are not freed.
CALL made_up_launches() { return launches; }
CALL made_up_captures() { return captures; }
CALL made_up_registered() { return (int)registered.size(); }
CALL made_up_left() {
    int left = errors + (int)memory.size() + (int)pinned.size() + (int)registered.size();
    for (int count : alive) left += count;
    return left;
}
