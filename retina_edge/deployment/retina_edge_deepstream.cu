// A DeepStream library for retina_edge engines: it writes frames into the uint8 input and reads boxes from the outputs.
//
// Copyright: see LICENSE of retina_edge. SPDX-License-Identifier: Apache-2.0
//
// Gst-nvdspreprocess scales a frame with its aspect ratio kept, and pads it, as RGBA. Its own library then writes
// floats, but the engine takes uint8 [N, height, width, 3] BGR, which RetinaEdgeTensor writes. The other functions are
// the interface described in nvdspreprocess_interface.h and nvdsinfer_custom_impl.h.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "nvdsinfer_custom_impl.h"
#include "nvdspreprocess_interface.h"

struct CustomCtx {
    unsigned int height, width;
    cudaStream_t stream;
};

namespace {

constexpr unsigned int THREADS = 256;

// One thread per pixel. red, blue: byte offsets of these colors in a pixel of `channels` bytes.
__global__ void pack_bgr(const uint8_t *frame, unsigned int pitch, unsigned int channels, unsigned int red,
                         unsigned int blue, unsigned int width, unsigned int pixels, uint8_t *out) {
    const unsigned int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= pixels) return;
    const uint8_t *in = frame + static_cast<size_t>(pixel / width) * pitch + (pixel % width) * channels;
    out[3 * pixel] = in[blue];
    out[3 * pixel + 1] = in[1];
    out[3 * pixel + 2] = in[red];
}

bool channels_of(NvDsPreProcessFormat format, unsigned int &channels, unsigned int &red, unsigned int &blue) {
    switch (format) {
        case NvDsPreProcessFormat_RGB: channels = 3, red = 0, blue = 2; return true;
        case NvDsPreProcessFormat_BGR: channels = 3, red = 2, blue = 0; return true;
        case NvDsPreProcessFormat_RGBA: channels = 4, red = 0, blue = 2; return true;
        case NvDsPreProcessFormat_BGRx: channels = 4, red = 2, blue = 0; return true;
        default: return false;
    }
}

const NvDsInferLayerInfo *layer(const std::vector<NvDsInferLayerInfo> &layers, const char *name,
                                NvDsInferDataType type) {
    for (const NvDsInferLayerInfo &info : layers)
        if (info.layerName && !std::strcmp(info.layerName, name))
            return info.dataType == type && info.buffer ? &info : nullptr;
    return nullptr;
}

}  // namespace

extern "C" CustomCtx *initLib(CustomInitParams parameters) {
    const NvDsPreProcessTensorParams &tensor = parameters.tensor_params;
    const std::vector<int> &shape = tensor.network_input_shape;
    if (tensor.data_type != NvDsDataType_UINT8 || shape.size() != 4 || shape[3] != 3 ||
        tensor.network_input_order != NvDsPreProcessNetworkInputOrder_kNHWC) {
        std::fprintf(stderr, "retina_edge: expected tensor-data-type=1 (UINT8), network-input-order=1 (NHWC) and "
                             "network-input-shape=N;height;width;3\n");
        return nullptr;
    }
    const unsigned int height = static_cast<unsigned int>(shape[1]), width = static_cast<unsigned int>(shape[2]);
    CustomCtx *context = new CustomCtx{height, width, nullptr};
    if (cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking) != cudaSuccess) {
        delete context;
        return nullptr;
    }
    return context;
}

extern "C" void deInitLib(CustomCtx *context) {
    if (!context) return;
    cudaStreamDestroy(context->stream);
    delete context;
}

extern "C" NvDsPreProcessStatus RetinaEdgeTransformation(NvBufSurface *in, NvBufSurface *out,
                                                         CustomTransformParams &parameters) {
    if (NvBufSurfTransformSetSessionParams(&parameters.transform_config_params) != NvBufSurfTransformError_Success ||
        NvBufSurfTransform(in, out, &parameters.transform_params) != NvBufSurfTransformError_Success)
        return NVDSPREPROCESS_CUSTOM_TRANSFORMATION_FAILED;
    return NVDSPREPROCESS_SUCCESS;
}

extern "C" NvDsPreProcessStatus RetinaEdgeTensor(CustomCtx *context, NvDsPreProcessBatch *batch,
                                                 NvDsPreProcessCustomBuf *&buffer, CustomTensorParams &tensor,
                                                 NvDsPreProcessAcquirer *acquirer) {
    unsigned int channels, red, blue;
    if (!channels_of(batch->scaling_pool_format, channels, red, blue)) {
        std::fprintf(stderr, "retina_edge: frames of format %d cannot become BGR\n", batch->scaling_pool_format);
        return NVDSPREPROCESS_INVALID_PARAMS;
    }
    buffer = acquirer->acquire();
    unsigned int pixels = context->height * context->width, width = context->width, pitch = batch->pitch;
    cudaError_t error = cudaSuccess;
    for (size_t n = 0; n < batch->units.size() && error == cudaSuccess; ++n) {
        const uint8_t *frame = static_cast<const uint8_t *>(batch->units[n].converted_frame_ptr);
        uint8_t *out = static_cast<uint8_t *>(buffer->memory_ptr) + n * pixels * 3;
        void *arguments[] = {&frame, &pitch, &channels, &red, &blue, &width, &pixels, &out};
        error = cudaLaunchKernel(reinterpret_cast<const void *>(&pack_bgr), dim3((pixels + THREADS - 1) / THREADS),
                                 dim3(THREADS), arguments, 0, context->stream);
    }
    // Wait even after an error, because no kernel may still write into a buffer that is released.
    const cudaError_t ended = cudaStreamSynchronize(context->stream);
    if (error != cudaSuccess || ended != cudaSuccess) {
        acquirer->release(buffer);
        return NVDSPREPROCESS_CUDA_ERROR;
    }
    tensor.params.network_input_shape[0] = static_cast<int>(batch->units.size());
    return NVDSPREPROCESS_SUCCESS;
}

extern "C" bool NvDsInferParseRetinaEdge(std::vector<NvDsInferLayerInfo> const &layers,
                                         NvDsInferNetworkInfo const &network,
                                         NvDsInferParseDetectionParams const &parameters,
                                         std::vector<NvDsInferObjectDetectionInfo> &objects) {
    const NvDsInferLayerInfo *count = layer(layers, "num_detections", INT32), *boxes = layer(layers, "boxes", FLOAT),
                             *scores = layer(layers, "scores", FLOAT), *labels = layer(layers, "labels", INT32);
    if (!count || !boxes || !scores || !labels || boxes->inferDims.numDims != 2 || boxes->inferDims.d[1] != 4) {
        std::fprintf(stderr, "retina_edge: expected the outputs num_detections, boxes, scores and labels\n");
        return false;
    }
    const float *box = static_cast<const float *>(boxes->buffer), *score = static_cast<const float *>(scores->buffer);
    const int32_t *label = static_cast<const int32_t *>(labels->buffer);
    const int rows = static_cast<int>(boxes->inferDims.d[0]);
    const int detections = std::min(*static_cast<const int32_t *>(count->buffer), rows);
    const float right = static_cast<float>(network.width), bottom = static_cast<float>(network.height);
    for (int n = 0; n < detections; ++n, box += 4) {
        if (label[n] < 0 || static_cast<unsigned int>(label[n]) >= parameters.numClassesConfigured) continue;
        if (!(score[n] >= parameters.perClassPreclusterThreshold[label[n]])) continue;
        const float x1 = std::min(std::max(box[0], 0.f), right), y1 = std::min(std::max(box[1], 0.f), bottom);
        const float x2 = std::min(std::max(box[2], 0.f), right), y2 = std::min(std::max(box[3], 0.f), bottom);
        if (!(x2 > x1 && y2 > y1)) continue;
        NvDsInferObjectDetectionInfo object{};
        object.classId = static_cast<unsigned int>(label[n]);
        object.left = x1, object.top = y1, object.width = x2 - x1, object.height = y2 - y1;
        object.detectionConfidence = score[n];
        objects.push_back(object);
    }
    return true;
}

CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(NvDsInferParseRetinaEdge)
