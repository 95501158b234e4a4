// Calls the library as Gst-nvdspreprocess and Gst-nvinfer do. It reads numbers from stdin and writes them to stdout.
#include <iostream>
#include <memory>

#include "retina_edge_deepstream.cu"

template <typename T>
static std::vector<T> numbers(size_t count) {
    std::vector<T> values(count);
    for (T &value : values) {
        // std::stod accepts nan and inf, which >> does not.
        double number;
        std::string text;
        std::cin >> text;
        number = std::stod(text);
        value = static_cast<T>(number);
    }
    return values;
}

struct Pool : NvDsPreProcessAcquirer {
    std::vector<uint8_t> memory;
    NvDsPreProcessCustomBuf buffer{};
    int held = 0;
    NvDsPreProcessCustomBuf *acquire() override {
        ++held;
        buffer.memory_ptr = memory.data();
        return &buffer;
    }
    int release(NvDsPreProcessCustomBuf *) override { return --held == 0; }
};

static int pack() {
    auto shape = numbers<int>(6);  // frames, height, width, pitch, format, fail
    CustomInitParams parameters{{NvDsPreProcessNetworkInputOrder_kNHWC, {shape[0], shape[1], shape[2], 3},
                                 NvDsDataType_UINT8}};
    CustomCtx *context = initLib(parameters);
    CustomTransformParams transform{};
    if (!context || RetinaEdgeTransformation(nullptr, nullptr, transform) != NVDSPREPROCESS_SUCCESS || !transformed)
        return 2;
    launch_error = shape[5];
    NvDsPreProcessBatch batch{};
    batch.pitch = shape[3];
    batch.scaling_pool_format = static_cast<NvDsPreProcessFormat>(shape[4]);
    std::vector<std::unique_ptr<std::vector<uint8_t>>> frames;
    for (int n = 0; n < shape[0]; ++n) {
        frames.push_back(std::make_unique<std::vector<uint8_t>>(numbers<uint8_t>(shape[1] * shape[3])));
        batch.units.push_back({frames.back()->data()});
    }
    Pool pool;
    pool.memory.resize(shape[0] * shape[1] * shape[2] * 3);
    CustomTensorParams tensor{parameters.tensor_params};
    tensor.params.network_input_shape[0] = 99;
    NvDsPreProcessCustomBuf *buffer = nullptr;
    std::cout << RetinaEdgeTensor(context, &batch, buffer, tensor, &pool) << ' ' << pool.held << ' '
              << tensor.params.network_input_shape[0] << '\n';
    for (uint8_t value : pool.memory) std::cout << int(value) << ' ';
    deInitLib(context);
    return streams;
}

static int parse(const std::string &omitted) {
    auto sizes = numbers<int>(5);  // width, height, classes, rows, num_detections
    auto thresholds = numbers<float>(sizes[2]);
    auto boxes = numbers<float>(sizes[3] * 4), scores = numbers<float>(sizes[3]);
    auto labels = numbers<int32_t>(sizes[3]);
    int32_t count = sizes[4];
    unsigned int rows = sizes[3];
    std::vector<NvDsInferLayerInfo> layers;
    auto add = [&](const char *name, NvDsInferDataType type, NvDsInferDims dims, void *buffer) {
        if (omitted != name) layers.push_back({type, dims, int(layers.size()), name, buffer, 0});
    };
    add("labels", INT32, {1, {rows}, rows}, labels.data());
    add("scores", FLOAT, {1, {rows}, rows}, scores.data());
    add("boxes", FLOAT, {2, {rows, 4}, rows * 4}, boxes.data());
    add("num_detections", INT32, {1, {1}, 1}, &count);
    NvDsInferParseDetectionParams parameters{unsigned(sizes[2]), thresholds, {}};
    std::vector<NvDsInferObjectDetectionInfo> objects;
    if (!NvDsInferParseRetinaEdge(layers, {unsigned(sizes[0]), unsigned(sizes[1]), 3}, parameters, objects)) return 3;
    for (auto &o : objects)
        std::cout << o.classId << ' ' << o.left << ' ' << o.top << ' ' << o.width << ' ' << o.height << ' '
                  << o.detectionConfidence << ' ' << o.rotation_angle << '\n';
    return 0;
}

static int refuse() {
    NvDsPreProcessTensorParams nhwc{NvDsPreProcessNetworkInputOrder_kNHWC, {1, 4, 4, 3}, NvDsDataType_FP32};
    NvDsPreProcessTensorParams nchw{NvDsPreProcessNetworkInputOrder_kNCHW, {1, 3, 4, 4}, NvDsDataType_UINT8};
    return initLib({nhwc}) || initLib({nchw}) ? 1 : 0;
}

int main(int count, char **words) {
    std::string command = count > 1 ? words[1] : "";
    if (command == "pack") return pack();
    if (command == "refuse") return refuse();
    return parse(count > 2 ? words[2] : "");
}
