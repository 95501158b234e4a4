// Letterbox: resizes frames of any sizes into one network input, as engines/core/letterbox.py does with OpenCV.
//
// The grid is (ceil(height * width / 4 / threads), images). Each thread computes four neighboring pixels and writes
// their 12 bytes in three stores. The width of an input is a multiple of 32, so the four pixels are in one row.
//
// The array frames begins with a header: one Source for each image, which says where its pixels are. They follow in
// frames itself, or lie anywhere else in the memory of the GPU. In both cases, pixels, rows and channels may have any
// distance, so the kernel reads BGR, RGB, BGRA, planes and rows with padding. It also reads NV12.
//
// The image shows a rectangle of the frame, such as a tile. Past its filled part, the rectangle is black.
//
// Like OpenCV's INTER_LINEAR, the interpolation uses half-pixel centers, repeats the edges and rounds to nearest.
// OpenCV computes in fixed point, so some pixels differ by one gray level. NV12 is converted to BGR before the
// interpolation; the two by two pixels that share a chroma sample all use it, and luma below black is black, as in
// OpenCV. The kernel writes every byte of images: uint8 [N, height, width, 3], BGR.
#include "block.cuh"

#define THREADS 256
#define PIXELS 4

// The layout must agree with HEADER in engines/runner/frame_header.py.
struct Source {
    long long pixels;  // address, or offset from frames, of the first pixel's blue value, or of NV12's first luma
    long long chroma;  // address of NV12's first U, which V follows
    int kind;          // see enum Kind
    // Distances in bytes: from row to row, from pixel to pixel, from blue to green and from green to red.
    int pitch, pixel_step, channel_step, chroma_pitch;
    int top, left, height, width;        // the rectangle
    int filled_height, filled_width;     // the part of the rectangle that the frame fills, from its top left corner
    int resized_height, resized_width;   // size of the resized rectangle inside the input
    float luma_offset, luma_scale;       // NV12 to BGR: what is subtracted from luma before it is multiplied, and the
    float blue_u, green_u, green_v, red_v;  // parts of U and V, less 128, in each channel
    int zero;
};

enum Kind { NO_FRAME, IN_FRAMES, AT_ADDRESS, NV12 };

// Sets the two source positions that a target position is interpolated from, and the weight of the second one.
__device__ __forceinline__ void source_positions(int target, float scale, int size, int& low, int& high,
                                                 float& weight) {
    const float position = ((float)target + 0.5f) * scale - 0.5f;
    const float below = floorf(position);
    weight = position - below;
    low = (int)below;
    high = low + 1;
    if (low < 0) low = 0;
    if (high < 0) high = 0;
    if (low > size - 1) low = size - 1;
    if (high > size - 1) high = size - 1;
}

// One row of the rectangle; positions in it are relative to its left edge.
struct Row {
    const unsigned char *pixels, *chroma;
    bool filled;
};

template <bool IS_NV12>
__device__ __forceinline__ Row row_of(const Source& source, const unsigned char* pixels, int y) {
    const int row = source.top + y;
    Row result;
    result.pixels = pixels + (long long)row * source.pitch;
    result.chroma = IS_NV12 ? (const unsigned char*)source.chroma + (long long)(row / 2) * source.chroma_pitch : 0;
    result.filled = y < source.filled_height;
    return result;
}

__device__ __forceinline__ float gray_level(float value) { return fminf(fmaxf(value, 0.0f), 255.0f); }

// Sets the BGR values of one pixel of a row.
template <bool IS_NV12>
__device__ __forceinline__ void load(const Source& source, const Row& row, int x, float (&bgr)[3]) {
    const int column = source.left + x;
    if (!row.filled || x >= source.filled_width) {
        bgr[0] = bgr[1] = bgr[2] = 0.0f;
    } else if (IS_NV12) {
        const unsigned char* const pair = row.chroma + column / 2 * 2;
        const float luma = fmaxf((float)row.pixels[column] - source.luma_offset, 0.0f) * source.luma_scale;
        const float u = (float)pair[0] - 128.0f, v = (float)pair[1] - 128.0f;
        bgr[0] = gray_level(luma + source.blue_u * u);
        bgr[1] = gray_level(luma + source.green_u * u + source.green_v * v);
        bgr[2] = gray_level(luma + source.red_v * v);
    } else {
        const unsigned char* const pixel = row.pixels + column * source.pixel_step;
#pragma unroll
        for (int channel = 0; channel < 3; channel++) bgr[channel] = pixel[channel * source.channel_step];
    }
}

// Sets the 12 bytes of four pixels from (x, y) on; those past the resized rectangle stay as they are.
template <bool IS_NV12>
__device__ __forceinline__ void resize(const Source& source, const unsigned char* pixels, int y, int x,
                                       unsigned int (&words)[3]) {
    const float scale_y = (float)source.height / (float)source.resized_height;
    const float scale_x = (float)source.width / (float)source.resized_width;
    int top, bottom;
    float weight_y;
    source_positions(y, scale_y, source.height, top, bottom, weight_y);
    const Row upper = row_of<IS_NV12>(source, pixels, top), lower = row_of<IS_NV12>(source, pixels, bottom);
#pragma unroll
    for (int pixel = 0; pixel < PIXELS; pixel++) {
        if (x + pixel >= source.resized_width) break;
        int left, right;
        float weight_x;
        source_positions(x + pixel, scale_x, source.width, left, right, weight_x);
        float a[3], b[3], c[3], d[3];
        load<IS_NV12>(source, upper, left, a);
        load<IS_NV12>(source, upper, right, b);
        load<IS_NV12>(source, lower, left, c);
        load<IS_NV12>(source, lower, right, d);
#pragma unroll
        for (int channel = 0; channel < 3; channel++) {
            const float above = a[channel] + (b[channel] - a[channel]) * weight_x;
            const float below = c[channel] + (d[channel] - c[channel]) * weight_x;
            const int value = (int)(above + (below - above) * weight_y + 0.5f);
            const int byte = pixel * 3 + channel;
            words[byte / 4] |= (unsigned int)value << (byte % 4 * 8);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
ENTRY(const unsigned char* __restrict__ frames, int height, int width, unsigned char* __restrict__ images) {
    const Source source = ((const Source*)frames)[blockIdx.y];
    const int first = ((int)blockIdx.x * THREADS + (int)threadIdx.x) * PIXELS;
    if (first >= height * width) return;
    const int y = first / width, x = first - y * width;
    unsigned int words[3] = {0, 0, 0};
    if (source.kind != NO_FRAME && y < source.resized_height && x < source.resized_width) {
        if (source.kind == NV12) {
            resize<true>(source, (const unsigned char*)source.pixels, y, x, words);
        } else {
            const unsigned char* const base = source.kind == IN_FRAMES ? frames : (const unsigned char*)0;
            resize<false>(source, base + source.pixels, y, x, words);
        }
    }
    unsigned int* const out = (unsigned int*)(images + ((size_t)blockIdx.y * height * width + first) * 3);
    out[0] = words[0];
    out[1] = words[1];
    out[2] = words[2];
}
