// Letterbox: resizes frames of any sizes into one network input, as engines/core/letterbox.py does with OpenCV.
//
// The grid is (ceil(height * width / 4 / threads), images). Each thread computes four neighboring pixels and writes
// their 12 bytes in three stores. The width of an input is a multiple of 32, so the four pixels are in one row.
//
// The array frames begins with a header, int32 [N, 8], with one row for each image:
//     0     offset of the frame from the start of frames, in units of 256 bytes
//     1, 2  height and width of the frame
//     3, 4  height and width of the resized frame inside the input
//     5..7  zeros
// A row of zeros means that the image has no frame. Frames are uint8 [height, width, 3], BGR, without gaps between
// rows.
//
// Like OpenCV's INTER_LINEAR, the interpolation uses half-pixel centers, repeats the edges and rounds to nearest.
// OpenCV computes in fixed point, so some pixels differ by one gray level. The kernel writes every byte of images:
// uint8 [N, height, width, 3].
#include "block.cuh"

#define THREADS 256
#define PIXELS 4
#define UNIT 256

struct Header {
    int offset, height, width, resized_height, resized_width, zeros[3];
};

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

extern "C" __global__ void __launch_bounds__(THREADS)
ENTRY(const unsigned char* __restrict__ frames, int height, int width, unsigned char* __restrict__ images) {
    const Header header = ((const Header*)frames)[blockIdx.y];
    const int first = ((int)blockIdx.x * THREADS + (int)threadIdx.x) * PIXELS;
    if (first >= height * width) return;
    const int y = first / width, x = first - y * width;
    unsigned int words[3] = {0, 0, 0};
    if (y < header.resized_height && x < header.resized_width) {
        const unsigned char* const frame = frames + (size_t)header.offset * UNIT;
        const float scale_y = (float)header.height / (float)header.resized_height;
        const float scale_x = (float)header.width / (float)header.resized_width;
        int top, bottom;
        float weight_y;
        source_positions(y, scale_y, header.height, top, bottom, weight_y);
        const unsigned char* const upper_row = frame + (size_t)top * header.width * 3;
        const unsigned char* const lower_row = frame + (size_t)bottom * header.width * 3;
#pragma unroll
        for (int pixel = 0; pixel < PIXELS; pixel++) {
            if (x + pixel >= header.resized_width) break;
            int left, right;
            float weight_x;
            source_positions(x + pixel, scale_x, header.width, left, right, weight_x);
#pragma unroll
            for (int channel = 0; channel < 3; channel++) {
                const float a = upper_row[left * 3 + channel], b = upper_row[right * 3 + channel];
                const float c = lower_row[left * 3 + channel], d = lower_row[right * 3 + channel];
                const float above = a + (b - a) * weight_x, below = c + (d - c) * weight_x;
                const int value = (int)(above + (below - above) * weight_y + 0.5f);
                const int byte = pixel * 3 + channel;
                words[byte / 4] |= (unsigned int)value << (byte % 4 * 8);
            }
        }
    }
    unsigned int* const out = (unsigned int*)(images + ((size_t)blockIdx.y * height * width + first) * 3);
    out[0] = words[0];
    out[1] = words[1];
    out[2] = words[2];
}
