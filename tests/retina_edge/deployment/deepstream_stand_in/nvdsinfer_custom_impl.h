// The names and fields of DeepStream 9.1's public nvdsinfer.h and nvdsinfer_custom_impl.h that the library uses.
#pragma once
#include <vector>

typedef struct {
    unsigned int numDims;
    unsigned int d[8];
    unsigned int numElements;
} NvDsInferDims;

typedef enum { FLOAT = 0, HALF = 1, INT8 = 2, INT32 = 3, INT64 = 4, UINT8 = 5 } NvDsInferDataType;

typedef struct {
    NvDsInferDataType dataType;
    NvDsInferDims inferDims;
    int bindingIndex;
    const char *layerName;
    void *buffer;
    int isInput;
} NvDsInferLayerInfo;

typedef struct {
    unsigned int width, height, channels;
} NvDsInferNetworkInfo;

typedef struct {
    unsigned int classId;
    float left, top, width, height, detectionConfidence, rotation_angle;
} NvDsInferObjectDetectionInfo;

typedef struct {
    unsigned int numClassesConfigured;
    std::vector<float> perClassPreclusterThreshold;
    std::vector<float> perClassPostclusterThreshold;
} NvDsInferParseDetectionParams;

typedef bool (*NvDsInferParseCustomFunc)(std::vector<NvDsInferLayerInfo> const &, NvDsInferNetworkInfo const &,
                                         NvDsInferParseDetectionParams const &,
                                         std::vector<NvDsInferObjectDetectionInfo> &);

#define CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(function) \
    [[maybe_unused]] static NvDsInferParseCustomFunc checked_##function = function;
