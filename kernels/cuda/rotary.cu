// Rotary position embedding: pairs of values of a head are turned by angles of the token's position. Values beyond the rotated
// ones are copied. The backward pass is the same with the angles reversed.
#include "common.cuh"

// A block handles one token after another in x, and threads go over the slots of its heads: a pair to turn, or a value to copy.
template <class T>
__device__ __forceinline__ void turn(const T *x, const float *cosines, const float *sines, const int *positions, T *y, int heads, int head_width,
                                     int rotated, int table_rows, int interleaved, int reverse) {
  const i64 token = blockIdx.x;
  const int pairs = rotated / 2, slots = pairs + head_width - rotated;
  const int position = positions[token];
  const bool known = position >= 0 && position < table_rows;
  for (int slot = threadIdx.x; slot < slots * heads; slot += blockDim.x) {
    const int head = slot / slots, within = slot % slots;
    const i64 base = (token * heads + head) * head_width;
    if (within >= pairs) {
      const int at = rotated + within - pairs;
      y[base + at] = x[base + at];
      continue;
    }
    // A position that the table does not have gives values that are not numbers, not a read from somewhere else.
    const i64 angle = static_cast<i64>(known ? position : 0) * pairs + within;
    const float cosine = known ? cosines[angle] : __int_as_float(0x7fc00000);
    const float sine = reverse ? -sines[angle] : sines[angle];
    const int first = interleaved ? 2 * within : within, second = interleaved ? first + 1 : within + pairs;
    const float a = to_f32(x[base + first]), b = to_f32(x[base + second]);
    y[base + first] = from_f32<T>(a * cosine - b * sine);
    y[base + second] = from_f32<T>(b * cosine + a * sine);
  }
}

#define ROTARY(suffix, T)                                                                                               \
  KERNEL(256, rotary_##suffix, const T *x, const float *cosines, const float *sines, const int *positions, T *y,        \
         int heads, int head_width, int rotated, int table_rows, int interleaved, int reverse) {            \
    turn<T>(x, cosines, sines, positions, y, heads, head_width, rotated, table_rows, interleaved, reverse);     \
  }

ROTARY(f32, float)
ROTARY(bf16, bf16)
ROTARY(f16, f16)
