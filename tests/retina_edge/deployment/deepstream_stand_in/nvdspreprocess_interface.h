// The names and fields of DeepStream 9.1's public nvdspreprocess_interface.h and its includes that the library uses.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

struct NvBufSurface;
struct NvBufSurfTransformConfigParams {};
struct NvBufSurfTransformParams {};
typedef enum { NvBufSurfTransformError_Success = 0 } NvBufSurfTransform_Error;
static int transformed = 0;
static inline NvBufSurfTransform_Error NvBufSurfTransformSetSessionParams(NvBufSurfTransformConfigParams *) {
    return NvBufSurfTransformError_Success;
}
static inline NvBufSurfTransform_Error NvBufSurfTransform(NvBufSurface *, NvBufSurface *, NvBufSurfTransformParams *) {
    ++transformed;
    return NvBufSurfTransformError_Success;
}

typedef struct CustomCtx CustomCtx;
typedef enum {
    NVDSPREPROCESS_SUCCESS = 0,
    NVDSPREPROCESS_CUSTOM_TRANSFORMATION_FAILED = 3,
    NVDSPREPROCESS_INVALID_PARAMS = 5,
    NVDSPREPROCESS_CUDA_ERROR = 7
} NvDsPreProcessStatus;
typedef enum {
    NvDsPreProcessNetworkInputOrder_kNCHW = 0,
    NvDsPreProcessNetworkInputOrder_kNHWC
} NvDsPreProcessNetworkInputOrder;
typedef enum {
    NvDsPreProcessFormat_RGB,
    NvDsPreProcessFormat_BGR,
    NvDsPreProcessFormat_GRAY,
    NvDsPreProcessFormat_RGBA,
    NvDsPreProcessFormat_BGRx
} NvDsPreProcessFormat;
typedef enum { NvDsDataType_FP32, NvDsDataType_UINT8 } NvDsDataType;

typedef struct {
    NvBufSurfTransformConfigParams transform_config_params;
    NvBufSurfTransformParams transform_params;
} CustomTransformParams;
typedef struct {
    NvDsPreProcessNetworkInputOrder network_input_order;
    std::vector<int> network_input_shape;
    NvDsDataType data_type;
} NvDsPreProcessTensorParams;
typedef struct {
    NvDsPreProcessTensorParams params;
} CustomTensorParams;
typedef struct {
    NvDsPreProcessTensorParams tensor_params;
} CustomInitParams;
struct NvDsPreProcessCustomBuf {
    void *memory_ptr;
};
class NvDsPreProcessAcquirer {
public:
    virtual ~NvDsPreProcessAcquirer() = default;
    virtual NvDsPreProcessCustomBuf *acquire() = 0;
    virtual int release(NvDsPreProcessCustomBuf *) = 0;
};
typedef struct {
    void *converted_frame_ptr = nullptr;
} NvDsPreProcessUnit;
typedef struct {
    std::vector<NvDsPreProcessUnit> units;
    NvDsPreProcessFormat scaling_pool_format;
    uint32_t pitch;
} NvDsPreProcessBatch;
