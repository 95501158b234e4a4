// The part of CUDA that retina_edge_deepstream.cu uses, on the CPU. A launch runs the threads of its kernel in turn.
#pragma once
#include <cstddef>
#include <cstdint>

#define __global__ static
struct dim3 {
    unsigned int x;
    explicit dim3(unsigned int x) : x(x) {}
};
struct Index {
    unsigned int x;
};
static Index blockIdx, blockDim, threadIdx;

typedef int cudaError_t;
typedef int *cudaStream_t;
static const cudaError_t cudaSuccess = 0;
static const unsigned int cudaStreamNonBlocking = 1;
static cudaError_t launch_error = cudaSuccess;
static int streams = 0;

static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int) {
    *stream = new int(++streams);
    return cudaSuccess;
}
static inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    --streams;
    delete stream;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

typedef void (*Kernel)(const uint8_t *, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int,
                       unsigned int, uint8_t *);

static inline cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **a, size_t, cudaStream_t) {
    if (launch_error != cudaSuccess) return launch_error;
    auto number = [a](int n) { return *static_cast<unsigned int *>(a[n]); };
    blockDim.x = block.x;
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x)
            reinterpret_cast<Kernel>(const_cast<void *>(kernel))(
                *static_cast<const uint8_t **>(a[0]), number(1), number(2), number(3), number(4), number(5), number(6),
                *static_cast<uint8_t **>(a[7]));
    return cudaSuccess;
}
