// Signs from a counter: Philox4x32-10 (Salmon et al. 2011) on (column / 128, row, module).
//
// A warp makes 32 groups of 128 signs at a time, one for each lane, taken from all rows in turn so that narrow matrices leave no lane
// without work. The bits then lie in shared memory, and the warp writes one group after another, 16 bytes for each lane side by side. A value
// follows from its place in the matrix alone, so the grid has no part in it.
#include "common.cuh"

constexpr int GROUP = 128;
// One more than lanes: words that are read at the same time, those of one group, then lie in different banks.
constexpr int PITCH = WARP + 1;

struct Words {
  u32 word[4];
};

__device__ __forceinline__ Words philox(Words counter, u32 first, u32 second) {
  u32 a = counter.word[0], b = counter.word[1], c = counter.word[2], d = counter.word[3];
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const u64 left = static_cast<u64>(a) * 0xD2511F53u, right = static_cast<u64>(c) * 0xCD9E8D57u;
    a = static_cast<u32>(right >> 32) ^ b ^ first;
    b = static_cast<u32>(right);
    c = static_cast<u32>(left >> 32) ^ d ^ second;
    d = static_cast<u32>(left);
    first += 0x9E3779B9u;
    second += 0xBB67AE85u;
  }
  return {{a, b, c, d}};
}

// `out` is [rows, columns]; column 0 of it is column `before` of the matrix's group `first_group`.
template <class T>
__device__ __forceinline__ void fill(T *out, i64 rows, i64 columns, u32 first_row, u32 first_group, int before, u32 first_key, u32 second_key,
                                     u32 first_module, u32 second_module, float scale) {
  constexpr int COUNT = Pack<T>::COUNT, LANES = GROUP / COUNT, TOGETHER = WARP / LANES;
  SHARED(u32, words, 8 * 4 * PITCH);
  const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, own = warp * 4 * PITCH;
  const i64 groups = (before + columns + GROUP - 1) / GROUP;
  const i64 first = (static_cast<i64>(blockIdx.x) * (blockDim.x / WARP) + warp) * WARP;
  const i64 mine = first + lane;
  const Words bits = philox({{first_group + static_cast<u32>(mine % groups), first_row + static_cast<u32>(mine / groups), first_module, second_module}},
                            first_key, second_key);
#pragma unroll
  for (int i = 0; i < 4; ++i) words[own + i * PITCH + lane] = bits.word[i];
  __syncwarp();

  const bool aligned = is_aligned(out) && columns % COUNT == 0 && before % COUNT == 0;
  const T positive = from_f32<T>(scale), negative = from_f32<T>(-scale);
  const int part = lane / LANES, place = lane % LANES * COUNT;
  i64 row = (first + part) / groups, group = (first + part) % groups;
  for (int i = part; i < WARP && row < rows; i += TOGETHER) {
    const u32 word = words[own + place / 32 * PITCH + i];
    Pack<T> pack;
#pragma unroll
    for (int k = 0; k < COUNT; ++k) pack.values[k] = word >> (place % 32 + k) & 1 ? positive : negative;
    const i64 column = group * GROUP + place - before;
    T *const to = out + row * columns;
    if (aligned) {
      if (column >= 0 && column < columns) *reinterpret_cast<Pack<T> *>(to + column) = pack;
    } else {
#pragma unroll
      for (int k = 0; k < COUNT; ++k)
        if (column + k >= 0 && column + k < columns) to[column + k] = pack.values[k];
    }
    group += TOGETHER;
    while (group >= groups) {
      group -= groups;
      ++row;
    }
  }
}

#define SIGNS(suffix, T)                                                                                                             \
  KERNEL(256, signs_##suffix, T *out, i64 rows, i64 columns, u32 first_row, u32 first_group, int before, u32 first_key, u32 second_key, \
         u32 first_module, u32 second_module, float scale) {                                                                         \
    fill<T>(out, rows, columns, first_row, first_group, before, first_key, second_key, first_module, second_module, scale);          \
  }

SIGNS(f32, float)
SIGNS(bf16, bf16)
SIGNS(f16, f16)
