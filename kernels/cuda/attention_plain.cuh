// Attention of f32 with plain products. A block has 16 x 16 threads; thread (x, y) owns rows y, y + 16, ... of a product, and of
// scores the columns x, x + 16, ..., of results four columns from 4x on, 4x + 64 on, ...
#pragma once
#include "attention_common.cuh"

constexpr int PLAIN_THREADS = 256, SIDE = 16;
// Four more than a multiple of 32 keeps eight rows whose four columns are read at once in different banks.
template <int WIDE> constexpr int PLAIN_PITCH = WIDE + 4;

// Four neighbours in shared memory, at a multiple of four.
__device__ __forceinline__ float4 load_four(SharedPtr<float> from, int index) {
#ifdef GRISTMILL_SHIM
  return make_float4(from[index], from[index + 1], from[index + 2], from[index + 3]);
#else
  return *reinterpret_cast<const float4 *>(from + index);
#endif
}
__device__ __forceinline__ void multiply_add(float &sum, float4 a, float4 b) { sum += a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
__device__ __forceinline__ float element(float4 values, int i) { return i == 0 ? values.x : i == 1 ? values.y : i == 2 ? values.z : values.w; }

// Copies `ROWS` rows to shared memory, padded with zeros to WIDE elements; `row` gives each, or a null pointer for zeros.
template <int WIDE, int ROWS, class Row> __device__ __forceinline__ void load_plain(SharedPtr<float> tile, bool aligned, int width, Row row) {
  constexpr int CHUNKS = WIDE / 4;
  for (int chunk = threadIdx.x; chunk < ROWS * CHUNKS; chunk += PLAIN_THREADS) {
    const int number = chunk / CHUNKS, column = chunk % CHUNKS * 4;
    const float *const from = row(number);
    float values[4];
    load_pack(from, column, from ? width : 0, aligned, values, 0.f);
#pragma unroll
    for (int i = 0; i < 4; ++i) tile[number * PLAIN_PITCH<WIDE> + column + i] = values[i];
  }
}

// sums[i][j] += the product of row y + 16i of `left` and row x + 16j of `right`.
template <int WIDE, int ROWS, int COLUMNS>
__device__ __forceinline__ void plain_products(float (&sums)[ROWS][COLUMNS], SharedPtr<float> left, SharedPtr<float> right, int width, int x, int y) {
#pragma unroll 1
  for (int k = 0; k < width; k += 4) {
    float4 rows[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) rows[i] = load_four(left, (y + SIDE * i) * PLAIN_PITCH<WIDE> + k);
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      const float4 column = load_four(right, (x + SIDE * j) * PLAIN_PITCH<WIDE> + k);
#pragma unroll
      for (int i = 0; i < ROWS; ++i) multiply_add(sums[i][j], rows[i], column);
    }
  }
}

// sums[i][4c + e] += Σ over k of factors[y + 16i][k] * tile[k][64c + 4x + e], for `DEPTH` rows of the tile.
template <int WIDE, int ROWS, int DEPTH>
__device__ __forceinline__ void plain_accumulate(float (&sums)[ROWS][WIDE / SIDE], SharedPtr<float> factors, SharedPtr<float> tile, int x, int y) {
#pragma unroll 1
  for (int k = 0; k < DEPTH; k += 4) {
    float4 rows[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) rows[i] = load_four(factors, (y + SIDE * i) * PLAIN_PITCH<DEPTH> + k);
#pragma unroll
    for (int e = 0; e < 4; ++e)
#pragma unroll
      for (int c = 0; c < WIDE / 64; ++c) {
        const float4 values = load_four(tile, (k + e) * PLAIN_PITCH<WIDE> + 64 * c + 4 * x);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
          const float factor = element(rows[i], e);
          sums[i][4 * c] += factor * values.x;
          sums[i][4 * c + 1] += factor * values.y;
          sums[i][4 * c + 2] += factor * values.z;
          sums[i][4 * c + 3] += factor * values.w;
        }
      }
  }
}

template <int WIDE> __device__ __forceinline__ void plain_store(float *to, const float (&sums)[WIDE / SIDE], float factor, int width, bool aligned, int x) {
#pragma unroll
  for (int c = 0; c < WIDE / 64; ++c) {
    const float values[4] = {sums[4 * c] * factor, sums[4 * c + 1] * factor, sums[4 * c + 2] * factor, sums[4 * c + 3] * factor};
    store_pack(to, 64 * c + 4 * x, width, aligned, values);
  }
}

// Of the 16 threads of a row, which are half a warp.
template <class Join> __device__ __forceinline__ float side_reduce(float value) {
#pragma unroll
  for (int offset = SIDE / 2; offset > 0; offset >>= 1) value = Join::join(value, __shfl_xor_sync(FULL_MASK, value, offset));
  return value;
}

// Rows that a block owns, and rows of the tiles that it meets.
template <int WIDE> constexpr int PLAIN_OWNED = WIDE <= 128 ? 64 : 32;
template <int WIDE> constexpr int PLAIN_STEP = WIDE <= 64 ? 64 : 32;

template <int WIDE>
__device__ __forceinline__ void plain_forward(const Shape &shape, Heads<const float> q, Heads<const float> k, Heads<const float> v, Heads<float> o,
                                              float *log_sums) {
  constexpr int LANES = PLAIN_OWNED<WIDE>, STEP = PLAIN_STEP<WIDE>, ROWS = LANES / SIDE, COLUMNS = STEP / SIDE;
  DYNAMIC_SHARED(float, shared);
  // Keys and then values of a tile have one place.
  const SharedPtr<float> queries = shared + 0, tile = queries + LANES * PLAIN_PITCH<WIDE>, weights = tile + STEP * PLAIN_PITCH<WIDE>;
  const Numbering numbering{shape.query_offsets, shape.query_rows, shape.documents, shape.group, LANES};
  const i64 number = static_cast<i64>(gridDim.x) - 1 - blockIdx.x;
  const int found = find_document(numbering, number), key_head = blockIdx.y;
  const Document document = document_at(shape, found);
  const int lanes = document.queries * shape.group;
  const i64 first_of_block = (number - numbering.first(found)) * LANES;
  if (first_of_block < 0 || first_of_block >= lanes) return;
  const int block_lane = static_cast<int>(first_of_block), block_last = min(block_lane + LANES, lanes) - 1;
  const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;

  load_plain<WIDE, LANES>(queries, q.aligned(16), shape.width, LaneRows<float>{q, shape, document, key_head, block_lane});
  int2 sights[ROWS];
  float sums[ROWS][WIDE / SIDE] = {}, most[ROWS], totals[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    sights[i] = lane_sight(shape, document, block_lane + y + SIDE * i);
    most[i] = -infinity();
    totals[i] = 0.f;
  }
  const int begin = lane_sight(shape, document, block_lane).x / STEP, end = (lane_sight(shape, document, block_last).y + STEP - 1) / STEP;
  const bool keys_aligned = k.aligned(16), values_aligned = v.aligned(16);
  const float factor = shape.scale * LOG2_E;
  for (int block = begin; block < end; ++block) {
    // The values of the tile before are still read.
    __syncthreads();
    load_plain<WIDE, STEP>(tile, keys_aligned, shape.width, KeyRows<float>{k, document, key_head, block * STEP});
    __syncthreads();
    float scores[ROWS][COLUMNS] = {};
    plain_products<WIDE, ROWS, COLUMNS>(scores, queries, tile, shape.width, x, y);
    // The keys are still read.
    __syncthreads();
    load_plain<WIDE, STEP>(tile, values_aligned, shape.width, KeyRows<float>{v, document, key_head, block * STEP});
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      // Values that are not numbers get lost in the maximum; the sum has them.
      float best = -infinity();
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        scores[i][j] = sees(sights[i], block * STEP + x + SIDE * j) ? scores[i][j] * factor : -infinity();
        best = fmaxf(best, scores[i][j]);
      }
#pragma unroll
      for (int offset = SIDE / 2; offset > 0; offset >>= 1) best = fmaxf(best, __shfl_xor_sync(FULL_MASK, best, offset));
      const float before = most[i], now = fmaxf(before, best);
      // A lane that saw nothing yet has weights of zero, and not those of minus infinity less itself.
      const float base = now == -infinity() ? 0.f : now, shrink = exp2f(before - base);
      float total = 0.f;
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        const float weight = exp2f(scores[i][j] - base);
        weights[(y + SIDE * i) * PLAIN_PITCH<STEP> + x + SIDE * j] = weight;
        total += weight;
      }
      most[i] = now;
      totals[i] = totals[i] * shrink + total;
#pragma unroll
      for (int column = 0; column < WIDE / SIDE; ++column) sums[i][column] *= shrink;
    }
    __syncthreads();
    plain_accumulate<WIDE, ROWS, STEP>(sums, weights, tile, x, y);
  }
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    const int lane = block_lane + y + SIDE * i;
    const float total = side_reduce<Sum>(totals[i]), inverse = total == 0.f ? 0.f : 1.f / total;
    if (lane >= lanes) continue;
    const Place at = place(shape, document, key_head, lane);
    plain_store<WIDE>(o.at(at.row, at.head), sums[i], inverse, shape.width, o.aligned(16), x);
    if (log_sums && x == 0)
      log_sums[at.row * (static_cast<i64>(gridDim.y) * shape.group) + at.head] = total == 0.f ? -infinity() : most[i] * LN_2 + logf(total);
  }
}

// The backward pass has two kernels of one form: rows that a block owns meet tiles of the others. Where lanes are owned, the result is
// the gradient of the queries; where keys are, that of keys and values.
__device__ __forceinline__ float plain_base(float log_sum) { return log_sum == -infinity() ? 0.f : log_sum * LOG2_E; }

// Rows that a block owns in the backward pass: two matrices of them.
template <int WIDE> constexpr int PLAIN_BACKWARD_OWNED = WIDE <= 64 ? 64 : WIDE <= 128 ? 32 : 16;
// Rows of a tile, two matrices of them.
template <int WIDE> constexpr int PLAIN_BACKWARD_STEP = WIDE <= 64 ? 64 : WIDE <= 128 ? 32 : 16;

template <int WIDE>
__device__ __forceinline__ void plain_backward_queries(const Shape &shape, Heads<const float> q, Heads<const float> k, Heads<const float> v,
                                                       Heads<const float> d_o, const float *log_sums, const float *products, Heads<float> dq) {
  constexpr int LANES = PLAIN_BACKWARD_OWNED<WIDE>, STEP = PLAIN_BACKWARD_STEP<WIDE>, ROWS = LANES / SIDE, COLUMNS = STEP / SIDE;
  DYNAMIC_SHARED(float, shared);
  const SharedPtr<float> queries = shared + 0, gradients = queries + LANES * PLAIN_PITCH<WIDE>, keys = gradients + LANES * PLAIN_PITCH<WIDE>;
  const SharedPtr<float> values = keys + STEP * PLAIN_PITCH<WIDE>, differences = values + STEP * PLAIN_PITCH<WIDE>;
  const Numbering numbering{shape.query_offsets, shape.query_rows, shape.documents, shape.group, LANES};
  const i64 number = static_cast<i64>(gridDim.x) - 1 - blockIdx.x;
  const int found = find_document(numbering, number), key_head = blockIdx.y;
  const Document document = document_at(shape, found);
  const int lanes = document.queries * shape.group;
  const i64 first_of_block = (number - numbering.first(found)) * LANES;
  if (first_of_block < 0 || first_of_block >= lanes) return;
  const int block_lane = static_cast<int>(first_of_block), block_last = min(block_lane + LANES, lanes) - 1;
  const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;

  load_plain<WIDE, LANES>(queries, q.aligned(16), shape.width, LaneRows<float>{q, shape, document, key_head, block_lane});
  load_plain<WIDE, LANES>(gradients, d_o.aligned(16), shape.width, LaneRows<float>{d_o, shape, document, key_head, block_lane});
  int2 sights[ROWS];
  float sums[ROWS][WIDE / SIDE] = {}, bases[ROWS], sums_of_products[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    const int lane = block_lane + y + SIDE * i;
    sights[i] = lane_sight(shape, document, lane);
    bases[i] = sums_of_products[i] = 0.f;
    if (lane < lanes) {
      const Place at = place(shape, document, key_head, lane);
      const i64 index = at.row * (static_cast<i64>(gridDim.y) * shape.group) + at.head;
      bases[i] = plain_base(log_sums[index]);
      sums_of_products[i] = products[index];
    }
  }
  const int begin = lane_sight(shape, document, block_lane).x / STEP, end = (lane_sight(shape, document, block_last).y + STEP - 1) / STEP;
  const bool keys_aligned = k.aligned(16), values_aligned = v.aligned(16);
  const float factor = shape.scale * LOG2_E;
  for (int block = begin; block < end; ++block) {
    // The tile before is still read.
    __syncthreads();
    load_plain<WIDE, STEP>(keys, keys_aligned, shape.width, KeyRows<float>{k, document, key_head, block * STEP});
    load_plain<WIDE, STEP>(values, values_aligned, shape.width, KeyRows<float>{v, document, key_head, block * STEP});
    __syncthreads();
    float scores[ROWS][COLUMNS] = {}, changes[ROWS][COLUMNS] = {};
    plain_products<WIDE, ROWS, COLUMNS>(scores, queries, keys, shape.width, x, y);
    plain_products<WIDE, ROWS, COLUMNS>(changes, gradients, values, shape.width, x, y);
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) {
        const float difference = exp2f(scores[i][j] * factor - bases[i]) * (changes[i][j] - sums_of_products[i]);
        differences[(y + SIDE * i) * PLAIN_PITCH<STEP> + x + SIDE * j] = sees(sights[i], block * STEP + x + SIDE * j) ? difference : 0.f;
      }
    __syncthreads();
    plain_accumulate<WIDE, ROWS, STEP>(sums, differences, keys, x, y);
  }
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    const int lane = block_lane + y + SIDE * i;
    if (lane >= lanes) continue;
    const Place at = place(shape, document, key_head, lane);
    plain_store<WIDE>(dq.at(at.row, at.head), sums[i], shape.scale, shape.width, dq.aligned(16), x);
  }
}

template <int WIDE>
__device__ __forceinline__ void plain_backward_keys(const Shape &shape, Heads<const float> q, Heads<const float> k, Heads<const float> v,
                                                    Heads<const float> d_o, const float *log_sums, const float *products, Heads<float> dk,
                                                    Heads<float> dv) {
  constexpr int KEYS = PLAIN_BACKWARD_OWNED<WIDE>, STEP = PLAIN_BACKWARD_STEP<WIDE>, ROWS = KEYS / SIDE, COLUMNS = STEP / SIDE;
  DYNAMIC_SHARED(float, shared);
  // Weights and then their gradients have one place.
  const SharedPtr<float> keys = shared + 0, values = keys + KEYS * PLAIN_PITCH<WIDE>, queries = values + KEYS * PLAIN_PITCH<WIDE>;
  const SharedPtr<float> gradients = queries + STEP * PLAIN_PITCH<WIDE>, factors = gradients + STEP * PLAIN_PITCH<WIDE>;
  const Numbering numbering{shape.key_offsets, shape.key_rows, shape.documents, 1, KEYS};
  const i64 number = blockIdx.x;
  const int found = find_document(numbering, number), key_head = blockIdx.y;
  const Document document = document_at(shape, found);
  const int lanes = document.queries * shape.group;
  const i64 first_of_block = (number - numbering.first(found)) * KEYS;
  if (first_of_block < 0 || first_of_block >= document.keys) return;
  const int block_key = static_cast<int>(first_of_block);
  const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;

  load_plain<WIDE, KEYS>(keys, k.aligned(16), shape.width, KeyRows<float>{k, document, key_head, block_key});
  load_plain<WIDE, KEYS>(values, v.aligned(16), shape.width, KeyRows<float>{v, document, key_head, block_key});
  float key_sums[ROWS][WIDE / SIDE] = {}, value_sums[ROWS][WIDE / SIDE] = {};
  const int2 seen_by = watchers(shape, document, block_key, min(block_key + KEYS, document.keys));
  const int begin = seen_by.x * shape.group / STEP, end = seen_by.y > seen_by.x ? (seen_by.y * shape.group + STEP - 1) / STEP : begin;
  const bool queries_aligned = q.aligned(16), gradients_aligned = d_o.aligned(16);
  const float factor = shape.scale * LOG2_E;
  for (int block = begin; block < end; ++block) {
    // The tile before is still read.
    __syncthreads();
    load_plain<WIDE, STEP>(queries, queries_aligned, shape.width, LaneRows<float>{q, shape, document, key_head, block * STEP});
    load_plain<WIDE, STEP>(gradients, gradients_aligned, shape.width, LaneRows<float>{d_o, shape, document, key_head, block * STEP});
    __syncthreads();
    float scores[ROWS][COLUMNS] = {}, changes[ROWS][COLUMNS] = {};
    plain_products<WIDE, ROWS, COLUMNS>(scores, keys, queries, shape.width, x, y);
    plain_products<WIDE, ROWS, COLUMNS>(changes, values, gradients, shape.width, x, y);
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      const int lane = block * STEP + x + SIDE * j;
      const int2 sight = lane_sight(shape, document, lane);
      float base = 0.f, product = 0.f;
      if (lane < lanes) {
        const Place at = place(shape, document, key_head, lane);
        const i64 index = at.row * (static_cast<i64>(gridDim.y) * shape.group) + at.head;
        base = plain_base(log_sums[index]);
        product = products[index];
      }
#pragma unroll
      for (int i = 0; i < ROWS; ++i) {
        const bool seen = sees(sight, block_key + y + SIDE * i);
        const float weight = exp2f(scores[i][j] * factor - base);
        changes[i][j] = seen ? weight * (changes[i][j] - product) : 0.f;
        factors[(y + SIDE * i) * PLAIN_PITCH<STEP> + x + SIDE * j] = seen ? weight : 0.f;
      }
    }
    __syncthreads();
    plain_accumulate<WIDE, ROWS, STEP>(value_sums, factors, gradients, x, y);
    // The weights are still read.
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) factors[(y + SIDE * i) * PLAIN_PITCH<STEP> + x + SIDE * j] = changes[i][j];
    __syncthreads();
    plain_accumulate<WIDE, ROWS, STEP>(key_sums, factors, queries, x, y);
  }
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    const int key = block_key + y + SIDE * i;
    if (key >= document.keys) continue;
    plain_store<WIDE>(dk.at(document.key_start + key, key_head), key_sums[i], shape.scale, shape.width, dk.aligned(16), x);
    plain_store<WIDE>(dv.at(document.key_start + key, key_head), value_sums[i], 1.f, shape.width, dv.aligned(16), x);
  }
}
