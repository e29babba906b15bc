// NF4 with double quantisation, as bitsandbytes has it: quantising, the way back, and products with quantised weights.
//
// A block of 64 values has a scale, its largest magnitude; a group of 256 scales, less the mean of all, has the largest magnitude
// of those. Operations are rounded one by one (nothing is fused), so codes and numbers have the bits of the CPU.
//
// For a product a tile of weights is unpacked into shared memory in the type of the other operand, and multiplied on tensor
// cores. Where blocks end with rows, a thread unpacks sixteen bytes of codes at once, which it fetched while the tile before was
// multiplied.
#include "mma.cuh"

using u8 = unsigned char;

constexpr int THREADS = 256;
constexpr int BLOCK = 64;
constexpr int GROUP = 256;

__constant__ float CODES[16] = {-1.f,           -0.6961928f,   -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f,
                                -0.091050036f, 0.f,            0.0795803f,   0.1609302f,  0.2461123f,   0.33791524f,
                                0.44070983f,   0.562617f,      0.72295684f,  1.f};

// The positive numbers of the map of scales but 1.
__constant__ float MAGNITUDES[127] = {
    5.5000004e-7f, 3.2500002e-6f, 7.75e-6f, 2.1249998e-5f, 4.375e-5f, 6.625e-5f, 8.875e-5f, 1.5625001e-4f, 2.6875004e-4f,
    3.8125002e-4f, 4.9375003e-4f, 6.062501e-4f, 7.1875006e-4f, 8.3125e-4f, 9.437501e-4f, 1.2812499e-3f, 1.84375e-3f,
    2.40625e-3f, 2.96875e-3f, 3.5312497e-3f, 4.09375e-3f, 4.6562497e-3f, 5.2187503e-3f, 5.78125e-3f, 6.34375e-3f, 6.90625e-3f,
    7.46875e-3f, 8.03125e-3f, 8.59375e-3f, 9.156249e-3f, 9.71875e-3f, 1.140625e-2f, 1.421875e-2f, 1.703125e-2f, 1.9843752e-2f,
    2.265625e-2f, 2.546875e-2f, 2.8281251e-2f, 3.109375e-2f, 3.390625e-2f, 3.6718752e-2f, 3.953125e-2f, 4.2343747e-2f,
    4.515625e-2f, 4.796875e-2f, 5.078125e-2f, 5.359375e-2f, 5.640625e-2f, 5.9218753e-2f, 6.203125e-2f, 6.484375e-2f,
    6.7656256e-2f, 7.0468746e-2f, 7.328125e-2f, 7.609375e-2f, 7.890625e-2f, 8.171876e-2f, 8.453125e-2f, 8.734375e-2f,
    9.015625e-2f, 9.2968754e-2f, 9.578126e-2f, 9.859375e-2f, 1.07031256e-1f, 1.2109375e-1f, 1.3515624e-1f, 1.4921875e-1f,
    1.6328125e-1f, 1.7734376e-1f, 1.9140625e-1f, 2.0546874e-1f, 2.1953125e-1f, 2.3359375e-1f, 2.4765624e-1f, 2.6171875e-1f,
    2.7578127e-1f, 2.8984374e-1f, 3.0390626e-1f, 3.1796873e-1f, 3.3203125e-1f, 3.4609374e-1f, 3.6015624e-1f, 3.7421876e-1f,
    3.8828123e-1f, 4.0234375e-1f, 4.1640624e-1f, 4.3046874e-1f, 4.4453126e-1f, 4.5859373e-1f, 4.7265625e-1f, 4.867187e-1f,
    5.0078124e-1f, 5.148437e-1f, 5.289062e-1f, 5.4296875e-1f, 5.570313e-1f, 5.710938e-1f, 5.8515626e-1f, 5.992187e-1f,
    6.1328125e-1f, 6.273438e-1f, 6.414063e-1f, 6.5546876e-1f, 6.695312e-1f, 6.8359375e-1f, 6.976563e-1f, 7.117188e-1f,
    7.2578126e-1f, 7.398437e-1f, 7.5390625e-1f, 7.679688e-1f, 7.8203124e-1f, 7.9609376e-1f, 8.101562e-1f, 8.2421875e-1f,
    8.382813e-1f, 8.5234374e-1f, 8.6640626e-1f, 8.804687e-1f, 8.9453125e-1f, 9.085938e-1f, 9.2265624e-1f, 9.3671876e-1f,
    9.507812e-1f, 9.6484375e-1f, 9.789063e-1f, 9.9296874e-1f,
};

__device__ __forceinline__ float scale_of(int code) {
  const int place = code - 127;
  if (place == 0) return 0.f;
  if (place == 128) return 1.f;
  return place > 0 ? MAGNITUDES[place - 1] : -MAGNITUDES[-place - 1];
}

struct Weights {
  const u8 *codes, *scales;
  const float *largest, *mean;

  // The scale of a block.
  __device__ __forceinline__ float scale(i64 block) const {
    return __fadd_rn(__fmul_rn(scale_of(scales[block]), largest[block / GROUP]), mean[0]);
  }
  __device__ __forceinline__ int code(i64 element) const {
    const int pair = codes[element / 2];
    return element % 2 ? pair & 15 : pair >> 4;
  }
};

// The reciprocal of a largest magnitude, finite for 0.
__device__ __forceinline__ float reciprocal(float largest) { return __fdiv_rn(1.f, largest < 1e-38f ? 1e-38f : largest); }

// A value halfway between two numbers has the smaller code; one that is not a number the largest.
__device__ __forceinline__ int code_of(float value) {
  int code = 0;
#pragma unroll
  for (int i = 0; i < 15; ++i) {
    const float bound = (CODES[i] + CODES[i + 1]) * 0.5f;
    code += !(value <= bound);
  }
  return code;
}

// A warp for each block of values, two values for each lane.
template <class T> __device__ __forceinline__ void quantise(const T *x, u8 *codes, float *scales, i64 len) {
  const i64 block = static_cast<i64>(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
  const i64 first = block * BLOCK + threadIdx.x % WARP * 2;
  if (block * BLOCK >= len) return;
  const float a = first < len ? to_f32(x[first]) : 0.f, b = first + 1 < len ? to_f32(x[first + 1]) : 0.f;
  const float largest = warp_reduce<Max>(Max::join(fabsf(a), fabsf(b)));
  const float factor = reciprocal(largest);
  if (threadIdx.x % WARP == 0) scales[block] = largest;
  if (first >= len) return;
  const int high = code_of(__fmul_rn(a, factor)), low = first + 1 < len ? code_of(__fmul_rn(b, factor)) : 7;
  codes[first / 2] = static_cast<u8>(high << 4 | low);
}

// The mean of all scales in double precision: 256 sums in turn, added up by halves.
KERNEL(256, nf4_mean, const float *scales, float *mean, i64 blocks) {
  SHARED(double, sums, THREADS);
  const int thread = threadIdx.x;
  double sum = 0.;
  for (i64 i = thread; i < blocks; i += THREADS) sum += static_cast<double>(scales[i]);
  sums[thread] = sum;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] = static_cast<double>(sums[thread]) + static_cast<double>(sums[thread + half]);
  }
  if (thread == 0) mean[0] = blocks ? static_cast<float>(static_cast<double>(sums[0]) / static_cast<double>(blocks)) : 0.f;
}

// A block of threads for each group of scales.
KERNEL(256, nf4_scales, const float *scales, const float *mean, u8 *codes, float *largest, i64 blocks) {
  SHARED(float, scratch, 32);
  const i64 at = static_cast<i64>(blockIdx.x) * GROUP + threadIdx.x;
  const float value = at < blocks ? scales[at] - mean[0] : 0.f;
  const float most = row_reduce<Max>(fabsf(value), scratch);
  if (threadIdx.x == 0) largest[blockIdx.x] = most;
  if (at >= blocks) return;
  const float scaled = __fmul_rn(value, reciprocal(most));
  int low = 0, high = 255;
  while (low < high) {
    const int middle = (low + high) / 2;
    const float bound = (scale_of(middle) + scale_of(middle + 1)) * 0.5f;
    if (scaled <= bound) high = middle;
    else low = middle + 1;
  }
  codes[at] = static_cast<u8>(low);
}

// Eight values for each thread.
template <class T> __device__ __forceinline__ void dequantise(const Weights &weights, T *y, i64 len) {
  SHARED(float, table, 16);
  if (threadIdx.x < 16) table[threadIdx.x] = CODES[threadIdx.x];
  __syncthreads();
  constexpr int EACH = 8, COUNT = Pack<T>::COUNT;
  const i64 first = (static_cast<i64>(blockIdx.x) * THREADS + threadIdx.x) * EACH;
  if (first >= len) return;
  const float scale = weights.scale(first / BLOCK);
  const bool aligned = is_aligned(y);
  const i64 left = len - first;
  u32 pairs = 0;
  if (left >= EACH && is_aligned(weights.codes)) {
    pairs = *reinterpret_cast<const u32 *>(weights.codes + first / 2);
  } else {
    for (int i = 0; i < EACH / 2 && 2 * i < left; ++i) pairs |= static_cast<u32>(weights.codes[first / 2 + i]) << 8 * i;
  }
#pragma unroll
  for (int part = 0; part < EACH; part += COUNT) {
    float values[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const int at = part + i;
      values[i] = __fmul_rn(table[pairs >> (at / 2 * 8 + (at % 2 ? 0 : 4)) & 15], scale);
    }
    store_pack(y + first, part, static_cast<int>(left < EACH ? left : EACH), aligned, values);
  }
}

// Sixteen bytes, such as codes.
struct alignas(16) Codes {
  u32 words[4];
};

// Eight values to shared memory, at a multiple of sixteen bytes.
template <class T> __device__ __forceinline__ void store_eight(SharedPtr<T> to, const float (&values)[8]) {
#ifdef GRISTMILL_SHIM
  for (int i = 0; i < 8; ++i) to[i] = from_f32<T>(values[i]);
#else
  Codes packed;
#pragma unroll
  for (int i = 0; i < 4; ++i) packed.words[i] = pack_pair<T>(values[2 * i], values[2 * i + 1]);
  *reinterpret_cast<Codes *>(to) = packed;
#endif
}

// Unpacks tiles of weights. SIDE says that k runs along the rows of weights; else down the columns.
template <class T, bool SIDE> struct Unpacker {
  static constexpr int DEPTH = BLOCK, OUTPUTS = 128;
  // Rows of a tile in shared memory, and how far apart they are.
  static constexpr int ROWS = SIDE ? OUTPUTS : DEPTH, COLUMNS = SIDE ? DEPTH : OUTPUTS, STRIDE = COLUMNS + 8;

  Weights weights;
  int rows, columns;
  bool whole;
  Codes codes;
  float factor;

  // A thread has half of a block: where it begins in the tile.
  static __device__ __forceinline__ int own_row() { return threadIdx.x / (2 * COLUMNS / BLOCK); }
  static __device__ __forceinline__ int own_column() { return threadIdx.x % (2 * COLUMNS / BLOCK) * (BLOCK / 2); }

  // Begins to fetch the codes of the tile whose first element is there.
  __device__ __forceinline__ void fetch(int first_row, int first_column) {
    if (!whole) return;
    const int row = first_row + own_row(), column = first_column + own_column();
    codes = {{0u, 0u, 0u, 0u}};
    factor = 0.f;
    if (row >= rows || column >= columns) return;
    const i64 element = static_cast<i64>(row) * columns + column;
    codes = *reinterpret_cast<const Codes *>(weights.codes + element / 2);
    factor = weights.scale(element / BLOCK);
  }

  // Writes the tile to shared memory.
  __device__ __forceinline__ void unpack(int first_row, int first_column, SharedPtr<float> table, SharedPtr<T> tile) const {
    if (whole) {
      const int to = own_row() * STRIDE + own_column();
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        float values[8];
#pragma unroll
        for (int byte = 0; byte < 4; ++byte) {
          const u32 pair = codes.words[word] >> 8 * byte;
          values[2 * byte] = __fmul_rn(table[pair >> 4 & 15], factor);
          values[2 * byte + 1] = __fmul_rn(table[pair & 15], factor);
        }
        store_eight<T>(tile + (to + 8 * word), values);
      }
      return;
    }
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += THREADS) {
      const int row = first_row + i / COLUMNS, column = first_column + i % COLUMNS;
      float value = 0.f;
      if (row < rows && column < columns) {
        const i64 element = static_cast<i64>(row) * columns + column;
        value = __fmul_rn(table[weights.code(element)], weights.scale(element / BLOCK));
      }
      tile[i / COLUMNS * STRIDE + i % COLUMNS] = from_f32<T>(value);
    }
  }
};

// y = x * W^T + bias (SIDE), or x * W: 64 tokens by 128 outputs, two by four warps of 32 by 32. x is [tokens, depth], y is
// [tokens, outputs].
template <class T, bool SIDE>
__device__ __forceinline__ void multiply(const T *x, const Weights &weights, const T *bias, T *y, i64 tokens, int rows, int columns) {
  using Tile = Unpacker<T, SIDE>;
  constexpr int TOKENS = 64, DEPTH = Tile::DEPTH, STRIDE = DEPTH + 8, STEP = TOKENS * STRIDE, COUNT = Pack<T>::COUNT, PACKS = DEPTH / COUNT;
  SHARED(T, left, 2 * STEP);
  SHARED(T, right, Tile::ROWS * Tile::STRIDE);
  SHARED(float, table, 16);
  const int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
  const i64 first_token = static_cast<i64>(blockIdx.x) * TOKENS;
  const int first_output = blockIdx.y * Tile::OUTPUTS, depth = SIDE ? columns : rows, outputs = SIDE ? rows : columns;
  if (thread < 16) table[thread] = CODES[thread];
  const bool whole = columns % BLOCK == 0 && is_aligned(weights.codes), aligned = is_aligned(x) && depth % COUNT == 0;
  Tile tile{weights, rows, columns, whole, {}, 0.f};
  const auto fetch = [&](int start, int buffer) {
#pragma unroll
    for (int i = 0; i < TOKENS * PACKS / THREADS; ++i) {
      const int at = i * THREADS + thread, place = at / PACKS, k = at % PACKS * COUNT, to = buffer * STEP + place * STRIDE + k;
      // Tokens beyond the last are the last one, and what comes of them is left out.
      const i64 token = first_token + place < tokens ? first_token + place : tokens - 1;
      const T *from = x + token * depth;
      const int left_over = depth - start - k;
      if (aligned) {
        const int valid = left_over < 0 ? 0 : left_over < COUNT ? left_over : COUNT;
        copy_async(left + to, from + (valid ? start + k : 0), valid);
      } else {
        for (int j = 0; j < COUNT; ++j) left[to + j] = j < left_over ? from[start + k + j] : from_f32<T>(0.f);
      }
    }
    copies_commit();
    tile.fetch(SIDE ? first_output : start, SIDE ? start : first_output);
  };
  const int warp_token = warp / 4 * 32, warp_output = warp % 4 * 32;
  FragmentC sums[2][4] = {};
  fetch(0, 0);
  for (int start = 0, buffer = 0; start < depth; start += DEPTH, buffer ^= 1) {
    // Nobody reads the tile before any more, and the table is there.
    __syncthreads();
    tile.unpack(SIDE ? first_output : start, SIDE ? start : first_output, table, right);
    copies_wait<0>();
    __syncthreads();
    if (start + DEPTH < depth) fetch(start + DEPTH, buffer ^ 1);
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
      FragmentA<T> a[2];
      FragmentB<T> b[2][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) a[i] = load_left<T>(left + (buffer * STEP + (warp_token + 16 * i) * STRIDE + k), Rows{STRIDE});
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if constexpr (SIDE) load_right<T>(b[j], right + ((warp_output + 16 * j) * Tile::STRIDE + k), Rows{Tile::STRIDE});
        else load_right_transposed<T>(b[j], right + (k * Tile::STRIDE + warp_output + 16 * j), Rows{Tile::STRIDE});
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) mma(sums[i][j], a[i], b[j / 2][j % 2]);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int value = 0; value < 4; ++value) {
        const i64 token = first_token + warp_token + 16 * i + lane / 4 + value / 2 * 8;
        const int output = first_output + warp_output + 8 * j + lane % 4 * 2 + value % 2;
        if (token >= tokens || output >= outputs) continue;
        const float sum = sums[i][j].values[value] + (bias ? to_f32(bias[output]) : 0.f);
        y[token * outputs + output] = from_f32<T>(sum);
      }
}

// y = W * x + bias for each token (blockIdx.y) by itself, a warp for each output: a lane takes 32 values at a time.
template <class T> __device__ __forceinline__ void vector(const T *x, const Weights &weights, const T *bias, T *y, int rows, int columns) {
  SHARED(float, table, 16);
  if (threadIdx.x < 16) table[threadIdx.x] = CODES[threadIdx.x];
  __syncthreads();
  constexpr int EACH = BLOCK / 2, COUNT = Pack<T>::COUNT;
  const i64 row = static_cast<i64>(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP, token = blockIdx.y;
  if (row >= rows) return;
  const T *from = x + token * columns;
  const bool whole = columns % BLOCK == 0 && is_aligned(weights.codes), aligned = is_aligned(x) && columns % COUNT == 0;
  float sum = 0.f;
  for (int start = threadIdx.x % WARP * EACH; start < columns; start += WARP * EACH) {
    const i64 element = row * columns + start;
    if (whole) {
      const Codes codes = *reinterpret_cast<const Codes *>(weights.codes + element / 2);
      const float scale = weights.scale(element / BLOCK);
#pragma unroll
      for (int part = 0; part < EACH; part += COUNT) {
        float values[COUNT];
        load_pack(from, start + part, columns, aligned, values, 0.f);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
          const int at = part + i;
          const u32 pair = codes.words[at / 8] >> at % 8 / 2 * 8;
          const float weight = to_f32(from_f32<T>(__fmul_rn(table[at % 2 ? pair & 15 : pair >> 4 & 15], scale)));
          sum = __fmaf_rn(weight, values[i], sum);
        }
      }
    } else {
      for (int i = 0; i < EACH && start + i < columns; ++i) {
        const float value = __fmul_rn(table[weights.code(element + i)], weights.scale((element + i) / BLOCK));
        sum = __fmaf_rn(to_f32(from_f32<T>(value)), to_f32(from[start + i]), sum);
      }
    }
  }
  sum = warp_reduce<Sum>(sum);
  if (threadIdx.x % WARP == 0) y[token * rows + row] = from_f32<T>(sum + (bias ? to_f32(bias[row]) : 0.f));
}

#define CODING(suffix, T)                                                                                                        \
  KERNEL(256, nf4_quantise_##suffix, const T *x, u8 *codes, float *scales, i64 len) { quantise<T>(x, codes, scales, len); }      \
  KERNEL(256, nf4_dequantise_##suffix, const u8 *codes, const u8 *scales, const float *largest, const float *mean, T *y, i64 len) { \
    dequantise<T>(Weights{codes, scales, largest, mean}, y, len);                                                                \
  }

CODING(f32, float)
CODING(bf16, bf16)
CODING(f16, f16)

#define PRODUCTS(suffix, T)                                                                                                      \
  KERNEL(256, nf4_matmul_##suffix, const T *x, const u8 *codes, const u8 *scales, const float *largest, const float *mean, const T *bias, \
         T *y, i64 tokens, int rows, int columns) {                                                                              \
    multiply<T, true>(x, Weights{codes, scales, largest, mean}, bias, y, tokens, rows, columns);                                 \
  }                                                                                                                              \
  KERNEL(256, nf4_matmul_transposed_##suffix, const T *x, const u8 *codes, const u8 *scales, const float *largest, const float *mean, \
         const T *bias, T *y, i64 tokens, int rows, int columns) {                                                               \
    multiply<T, false>(x, Weights{codes, scales, largest, mean}, bias, y, tokens, rows, columns);                                \
  }                                                                                                                              \
  KERNEL(256, nf4_vector_##suffix, const T *x, const u8 *codes, const u8 *scales, const float *largest, const float *mean, const T *bias, \
         T *y, i64, int rows, int columns) {                                                                                     \
    vector<T>(x, Weights{codes, scales, largest, mean}, bias, y, rows, columns);                                                 \
  }

PRODUCTS(bf16, bf16)
PRODUCTS(f16, f16)
