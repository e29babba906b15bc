// The head of a language model with its cross-entropy: logits x = scale * (h * W^T + b) are computed tile by tile and never written
// as such.
//
// Forward: a block has a tile of rows and a part of the vocabulary. It goes past that part tile by tile, and each thread keeps for
// its elements of a row the largest logit, the sum of exponentials relative to it, and what else is asked for. Threads of a row, and
// then the parts of the vocabulary, are put together in a fixed order. The parts follow from the size of the vocabulary alone.
// The logits of the given tokens come from a kernel of their own, which adds up each in the order in which the tiles do.
//
// Backward: for up to 1024 rows and 8192 tokens of the vocabulary at a time, softmax - onehot is written in the element type,
// and multiplied with W (gradient of h, in up to four slices that are added in their order) and with weighted h (gradient of W).
// So the inner loops are those of ordinary products, whose sums stay in registers.
//
// Products of bf16 and f16 go through tensor cores, from shared memory that is filled three steps ahead; those of f32 do not.
#include "mma.cuh"

constexpr int THREADS = 256;
constexpr float LOG2E = 1.4426950408889634f;
constexpr i64 IGNORED = -100;

#ifdef GRISTMILL_SHIM
template <class U, class T> SharedPtr<U> shared_as(SharedPtr<T> from) { return from.template as<U>(); }
#else
template <class U, class T> __device__ __forceinline__ U *shared_as(T *from) { return reinterpret_cast<U *>(from); }
#endif

__device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fffffff); }

// A matrix that is one operand of a product: `count` of its lines exist. It lies with the values of k side by side, or transposed, with
// the lines side by side; `stride` elements lie between two lines, or between two values of k.
template <class T> struct Operand {
  const T *values;
  i64 stride, first, count;
};

// The token of a row; ids have 32 or 64 bits.
__device__ __forceinline__ i64 id_at(const void *ids, int wide, i64 index) {
  return wide ? static_cast<const i64 *>(ids)[index] : static_cast<const i32 *>(ids)[index];
}

// A tile of a product, 128 x 128, of eight warps with 32 x 64 each.
template <class T> struct Tile {
  static constexpr int SIZE = 128, ROWS = 4, COLUMNS = 16, OWNERS = 8;
  static constexpr int DEPTH = 32, STAGES = 3;
  // Strides that keep eight neighbouring lines in different banks.
  static constexpr int STRIDE = DEPTH + 8, TRANSPOSED_STRIDE = SIZE + 8;
  // Elements of one operand in one stage: those of the longer form.
  static constexpr int STAGE = SIZE * STRIDE;

  FragmentC sums[2][8];

  __device__ __forceinline__ float &at(int i, int j) { return sums[i / 2][j / 2].values[i % 2 * 2 + j % 2]; }
  static __device__ __forceinline__ int lane() { return threadIdx.x % WARP; }
  static __device__ __forceinline__ int warp_row() { return threadIdx.x / WARP % 4 * 32; }
  static __device__ __forceinline__ int warp_column() { return threadIdx.x / WARP / 4 * 64; }
  static __device__ __forceinline__ int row(int i) { return warp_row() + i / 2 * 16 + i % 2 * 8 + lane() / 4; }
  static __device__ __forceinline__ int column(int j) { return warp_column() + j / 2 * 8 + lane() % 4 * 2 + j % 2; }
  // Which of the threads that have elements of one row this is.
  static __device__ __forceinline__ int owner() { return warp_column() / 16 + lane() % 4; }

  template <bool TRANSPOSED> static __device__ __forceinline__ void load(SharedPtr<T> to, const Operand<T> &from, i64 k, i64 depth, bool aligned) {
    constexpr int WIDE = TRANSPOSED ? SIZE : DEPTH, LINES = TRANSPOSED ? DEPTH : SIZE, PITCH = TRANSPOSED ? TRANSPOSED_STRIDE : STRIDE;
    const i64 first = TRANSPOSED ? k : from.first, lines = TRANSPOSED ? depth : from.count;
    const i64 begin = TRANSPOSED ? from.first : k, end = TRANSPOSED ? from.count : depth;
#pragma unroll
    for (int i = threadIdx.x; i < LINES * WIDE / 8; i += THREADS) {
      const int line = i / (WIDE / 8), within = i % (WIDE / 8) * 8;
      const i64 left = first + line < lines ? end - (begin + within) : 0;
      const int valid = left < 0 ? 0 : left < 8 ? static_cast<int>(left) : 8;
      const T *values = valid > 0 ? from.values + (first + line) * from.stride + begin + within : from.values;
      const SharedPtr<T> at = to + (line * PITCH + within);
      if (aligned) {
        copy_async<T>(at, values, valid);
      } else {
        for (int j = 0; j < 8; ++j) at[j] = j < valid ? values[j] : from_f32<T>(0.f);
      }
    }
  }

  // sums = left * right. Both are at hand until the block's next barrier but one.
  template <bool LEFT_TRANSPOSED, bool RIGHT_TRANSPOSED>
  __device__ __forceinline__ void multiply(SharedPtr<T> memory, const Operand<T> &left, const Operand<T> &right, i64 depth) {
    const bool left_aligned = is_aligned(left.values) && left.stride % 8 == 0, right_aligned = is_aligned(right.values) && right.stride % 8 == 0;
    // Warps with nothing but padding have no product to compute, but copy like all others.
    const bool busy = left.first + warp_row() < left.count && right.first + warp_column() < right.count;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) sums[i][j] = {{0.f, 0.f, 0.f, 0.f}};
    const int steps = static_cast<int>((depth + DEPTH - 1) / DEPTH);
    const auto begin = [&](int step) {
      if (step < steps) {
        const SharedPtr<T> to = memory + step % STAGES * 2 * STAGE;
        load<LEFT_TRANSPOSED>(to, left, static_cast<i64>(step) * DEPTH, depth, left_aligned);
        load<RIGHT_TRANSPOSED>(to + STAGE, right, static_cast<i64>(step) * DEPTH, depth, right_aligned);
      }
      copies_commit();
    };
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step) begin(step);
    for (int step = 0; step < steps; ++step) {
      copies_wait<STAGES - 2>();
      // Everybody's copies of this step are there, and nobody reads those of the step before any more.
      __syncthreads();
      begin(step + STAGES - 1);
      if (!busy) continue;
      const SharedPtr<T> a_tile = memory + step % STAGES * 2 * STAGE, b_tile = a_tile + STAGE;
#pragma unroll
      for (int k = 0; k < DEPTH; k += 16) {
        FragmentA<T> a[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int line = warp_row() + i * 16;
          if constexpr (LEFT_TRANSPOSED) a[i] = load_left_transposed<T>(a_tile + (k * TRANSPOSED_STRIDE + line), Rows{TRANSPOSED_STRIDE});
          else a[i] = load_left<T>(a_tile + (line * STRIDE + k), Rows{STRIDE});
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int line = warp_column() + j * 16;
          FragmentB<T> b[2];
          if constexpr (RIGHT_TRANSPOSED) load_right_transposed<T>(b, b_tile + (k * TRANSPOSED_STRIDE + line), Rows{TRANSPOSED_STRIDE});
          else load_right<T>(b, b_tile + (line * STRIDE + k), Rows{STRIDE});
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            mma(sums[i][2 * j], a[i], b[0]);
            mma(sums[i][2 * j + 1], a[i], b[1]);
          }
        }
      }
    }
    // The memory is the caller's again.
    __syncthreads();
  }
};

// The same in single precision, 64 x 64, of 16 x 16 threads with 4 x 4 each.
template <> struct Tile<float> {
  static constexpr int SIZE = 64, ROWS = 4, COLUMNS = 4, OWNERS = 16;
  static constexpr int DEPTH = 16, STRIDE = DEPTH + 1;

  float sums[4][4];

  __device__ __forceinline__ float &at(int i, int j) { return sums[i][j]; }
  static __device__ __forceinline__ int row(int i) { return threadIdx.x / 16 + 16 * i; }
  static __device__ __forceinline__ int column(int j) { return threadIdx.x % 16 + 16 * j; }
  static __device__ __forceinline__ int owner() { return threadIdx.x % 16; }

  template <bool TRANSPOSED> static __device__ __forceinline__ void load(SharedPtr<float> to, const Operand<float> &from, i64 k, i64 depth) {
    for (int i = threadIdx.x; i < SIZE * DEPTH; i += THREADS) {
      const int line = TRANSPOSED ? i % SIZE : i / DEPTH, within = TRANSPOSED ? i / SIZE : i % DEPTH;
      const i64 at = from.first + line, value = k + within;
      const bool exists = at < from.count && value < depth;
      to[line * STRIDE + within] = exists ? from.values[TRANSPOSED ? value * from.stride + at : at * from.stride + value] : 0.f;
    }
  }

  template <bool LEFT_TRANSPOSED, bool RIGHT_TRANSPOSED>
  __device__ __forceinline__ void multiply(SharedPtr<float> memory, const Operand<float> &left, const Operand<float> &right, i64 depth) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j] = 0.f;
    const SharedPtr<float> a_tile = memory, b_tile = memory + SIZE * STRIDE;
    for (i64 k = 0; k < depth; k += DEPTH) {
      load<LEFT_TRANSPOSED>(a_tile, left, k, depth);
      load<RIGHT_TRANSPOSED>(b_tile, right, k, depth);
      __syncthreads();
#pragma unroll 8
      for (int within = 0; within < DEPTH; ++within) {
        float a[4], b[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = a_tile[row(i) * STRIDE + within];
#pragma unroll
        for (int j = 0; j < 4; ++j) b[j] = b_tile[column(j) * STRIDE + within];
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) sums[i][j] = __fmaf_rn(a[i], b[j], sums[i][j]);
      }
      __syncthreads();
    }
  }
};

template <class T> __device__ __forceinline__ float logit(float sum, const T *bias, i64 column, float scale) {
  return (bias ? sum + to_f32(bias[column]) : sum) * scale;
}

// Two values of a row in half precision, beyond the last one zero.
template <class T> __device__ __forceinline__ u32 pair_at(const T *row, int k, int width) {
  return pack_pair<T>(k < width ? to_f32(row[k]) : 0.f, k + 1 < width ? to_f32(row[k + 1]) : 0.f);
}

// Logits of the given tokens of a row, to where their losses will be; a warp has a row, and eight tokens at a time. Every sum has
// the order that the tiles give it, so that it can be compared with theirs.
template <class T>
__device__ __forceinline__ void given(const T *hidden, const T *head, const T *bias, const i64 *offsets, const void *ids, int wide, float *loss,
                                      i64 rows, int width, int vocabulary, float scale) {
  const int lane = threadIdx.x % WARP;
  const i64 row = static_cast<i64>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (row >= rows) return;
  const i64 begin = offsets ? offsets[row] : row, end = offsets ? offsets[row + 1] : row + 1;
  const T *const h = hidden + row * width;
  const auto write = [&](i64 index, i64 id, float sum) {
    if (id == IGNORED) loss[index] = 0.f;
    else loss[index] = id >= 0 && id < vocabulary ? logit(sum, bias, id, scale) : not_a_number();
  };
  if constexpr (sizeof(T) == 4) {
    for (i64 index = begin + lane; index < end; index += WARP) {
      const i64 id = id_at(ids, wide, index);
      float sum = 0.f;
      if (id >= 0 && id < vocabulary)
        for (int k = 0; k < width; ++k) sum = __fmaf_rn(h[k], head[id * width + k], sum);
      write(index, id, sum);
    }
  } else {
    const int pair = 2 * (lane % 4);
    for (i64 first = begin; first < end; first += 8) {
      const i64 id = first + lane / 4 < end ? id_at(ids, wide, first + lane / 4) : -1;
      const bool exists = id >= 0 && id < vocabulary;
      const T *const w = head + (exists ? id * width : 0);
      FragmentC sums = {{0.f, 0.f, 0.f, 0.f}};
      for (int k = 0; k < width; k += 16) {
        FragmentA<T> a = {{0, 0, 0, 0}};
        FragmentB<T> b = {{0, 0}};
        if (lane < 4) {
          a.parts[0] = pair_at(h, k + pair, width);
          a.parts[2] = pair_at(h, k + pair + 8, width);
        }
        if (exists) {
          b.parts[0] = pair_at(w, k + pair, width);
          b.parts[1] = pair_at(w, k + pair + 8, width);
        }
        mma(sums, a, b);
      }
      // Row 0 of the result is in the first four lanes.
      for (int j = 0; j < 2; ++j) {
        const i64 index = first + pair + j;
        if (lane < 4 && index < end) write(index, id_at(ids, wide, index), sums.values[j]);
      }
    }
  }
}

// What is known of a row after some of its logits. The sum is relative to the largest, or to 0 where that is -infinity.
struct State {
  static constexpr int FIELDS = 5;
  float most, sum, total;
  int best, above;

  static __device__ __forceinline__ State empty() { return {-infinity(), 0.f, 0.f, -1, 0}; }
  __device__ __forceinline__ float base() const { return most == -infinity() ? 0.f : most; }
  // With other logits; of equal ones that with the smaller number is best.
  __device__ __forceinline__ void join(const State &other) {
    const float before = most, beside = other.most;
    if (beside > most || (beside == most && other.best < best)) best = other.best;
    if (beside > most) most = beside;
    sum = sum * fast_exp2((before - base()) * LOG2E) + other.sum * fast_exp2((beside - base()) * LOG2E);
    total += other.total;
    above += other.above;
  }
  __device__ __forceinline__ float field(int which) const {
    return which == 0 ? most : which == 1 ? sum : which == 2 ? total : __int_as_float(which == 3 ? best : above);
  }
};

// Five numbers of one state, from memory of any kind, `stride` apart.
template <class From> __device__ __forceinline__ State state_at(From from, i64 index, i64 stride) {
  const float most = from[index], sum = from[index + stride], total = from[index + 2 * stride];
  return {most, sum, total, __float_as_int(from[index + 3 * stride]), __float_as_int(from[index + 4 * stride])};
}

// `partial` is [5, splits, rows]. `given`, where ranks are asked for, has the logit of each row's token.
template <class T>
__device__ __forceinline__ void forward(const T *hidden, const T *head, const T *bias, const void *ids, int wide, const float *given, float *partial,
                                        i64 rows, int width, int vocabulary, int split, float scale, int totals) {
  using Product = Tile<T>;
  DYNAMIC_SHARED(T, memory);
  const i64 first = static_cast<i64>(blockIdx.x) * Product::SIZE;
  const int begin = blockIdx.y * split, end = min(vocabulary, begin + split);
  State states[Product::ROWS];
#pragma unroll
  for (int i = 0; i < Product::ROWS; ++i) states[i] = State::empty();
  for (int start = begin; start < end; start += Product::SIZE) {
    Product product;
    product.template multiply<false, false>(memory, {hidden, width, first, rows}, {head, width, start, end}, width);
#pragma unroll
    for (int j = 0; j < Product::COLUMNS; ++j) {
      const int column = start + Product::column(j);
#pragma unroll
      for (int i = 0; i < Product::ROWS; ++i) {
        float &x = product.at(i, j);
        x = column < end ? logit(x, bias, column, scale) : -infinity();
      }
    }
#pragma unroll
    for (int i = 0; i < Product::ROWS; ++i) {
      State &state = states[i];
      const float before = state.most;
#pragma unroll
      for (int j = 0; j < Product::COLUMNS; ++j) {
        // One that is not a number gets lost here; the sum has it.
        if (product.at(i, j) > state.most) {
          state.most = product.at(i, j);
          state.best = start + Product::column(j);
        }
      }
      const float base = state.base();
      float sum = state.sum * fast_exp2((before - base) * LOG2E);
#pragma unroll
      for (int j = 0; j < Product::COLUMNS; ++j) sum += fast_exp2((product.at(i, j) - base) * LOG2E);
      state.sum = sum;
      if (totals) {
#pragma unroll
        for (int j = 0; j < Product::COLUMNS; ++j)
          if (start + Product::column(j) < end) state.total += product.at(i, j);
      }
      const i64 row = first + Product::row(i);
      if (given && row < rows) {
        const float limit = given[row];
        const i64 id = id_at(ids, wide, row);
#pragma unroll
        for (int j = 0; j < Product::COLUMNS; ++j) {
          const int column = start + Product::column(j);
          const float x = product.at(i, j);
          state.above += column != id && (x > limit || (x == limit && column < id));
        }
      }
    }
  }
  const SharedPtr<float> shared = shared_as<float>(memory);
  constexpr int STATES = Product::SIZE * Product::OWNERS;
#pragma unroll
  for (int i = 0; i < Product::ROWS; ++i)
#pragma unroll
    for (int field = 0; field < State::FIELDS; ++field)
      shared[field * STATES + Product::row(i) * Product::OWNERS + Product::owner()] = states[i].field(field);
  __syncthreads();
  const int row = threadIdx.x;
  if (row >= Product::SIZE || first + row >= rows) return;
  State state = State::empty();
  for (int owner = 0; owner < Product::OWNERS; ++owner) state.join(state_at(shared, row * Product::OWNERS + owner, STATES));
  for (int field = 0; field < State::FIELDS; ++field) partial[(field * gridDim.y + blockIdx.y) * rows + first + row] = state.field(field);
}

// Makes losses out of the logits of given tokens, and the rest, out of the parts of the vocabulary. A thread has a row.
KERNEL(256, linear_ce_combine_f32, const float *partial, const i64 *offsets, const void *ids, int wide, float *loss, float *log_sum_exp, int *best,
       float *best_log_probability, int *rank, i64 rows, int splits, int vocabulary, float smoothing) {
  const i64 row = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  State state = State::empty();
  for (int split = 0; split < splits; ++split) state.join(state_at(partial, split * rows + row, splits * rows));
  const float log_sum = state.base() + logf(state.sum);
  const bool known = log_sum - log_sum == 0.f;
  log_sum_exp[row] = log_sum;
  if (best) best[row] = known ? state.best : -1;
  if (best_log_probability) best_log_probability[row] = known ? state.most - log_sum : not_a_number();
  const i64 begin = offsets ? offsets[row] : row, end = offsets ? offsets[row + 1] : row + 1;
  for (i64 index = begin; index < end; ++index) {
    const i64 id = id_at(ids, wide, index);
    const bool is_token = id >= 0 && id < vocabulary;
    if (rank) rank[row] = known && is_token ? state.above : -1;
    if (id == IGNORED) continue;
    const float own = log_sum - loss[index];
    loss[index] = smoothing == 0.f ? own : (1.f - smoothing) * own + smoothing * (log_sum - state.total / vocabulary);
  }
}

// softmax - (1 - smoothing) * onehot - smoothing / vocabulary for some rows and the tokens from `offset` on, as T, in rows `stride` apart;
// zeros in ignored rows. `head` and `bias` are those of these tokens.
template <class T>
__device__ __forceinline__ void gradient(const T *hidden, const T *head, const T *bias, const void *ids, int wide, const float *log_sum_exp, T *logits,
                                         i64 rows, int width, int offset, int columns, int stride, int vocabulary, float scale, float smoothing) {
  using Product = Tile<T>;
  DYNAMIC_SHARED(T, memory);
  const i64 first = static_cast<i64>(blockIdx.x) * Product::SIZE;
  const int start = blockIdx.y * Product::SIZE;
  const i64 own = first + threadIdx.x;
  const int counts = threadIdx.x < Product::SIZE && own < rows && id_at(ids, wide, own) != IGNORED;
  Product product;
  if (__syncthreads_or(counts)) product.template multiply<false, false>(memory, {hidden, width, first, rows}, {head, width, start, columns}, width);
  const float spread = smoothing / vocabulary;
#pragma unroll
  for (int i = 0; i < Product::ROWS; ++i) {
    const i64 row = first + Product::row(i);
    if (row >= rows) continue;
    const i64 id = id_at(ids, wide, row);
    const bool ignored = id == IGNORED, is_token = id >= 0 && id < vocabulary;
    const float base = log_sum_exp[row];
#pragma unroll
    for (int j = 0; j < Product::COLUMNS; ++j) {
      const int column = start + Product::column(j);
      if (column >= columns) continue;
      float value = 0.f;
      if (!ignored) {
        value = fast_exp2((logit(product.at(i, j), bias, column, scale) - base) * LOG2E) - spread;
        if (offset + column == id) value -= 1.f - smoothing;
        if (!is_token) value = not_a_number();
      }
      logits[row * stride + column] = from_f32<T>(value);
    }
  }
}

// sums = logits * head for one slice of the tokens: `sums` is [1 + slices, rows, width], of which the first is linear_ce_hidden_combine's.
template <class T>
__device__ __forceinline__ void hidden_product(const T *logits, const T *head, float *sums, i64 rows, int width, int columns, int stride, int slice) {
  using Product = Tile<T>;
  DYNAMIC_SHARED(T, memory);
  const i64 first = static_cast<i64>(blockIdx.x) * Product::SIZE;
  const int start = blockIdx.y * Product::SIZE, token = blockIdx.z * slice;
  Product product;
  product.template multiply<false, true>(memory, {logits + token, stride, first, rows}, {head + static_cast<i64>(token) * width, width, start, width},
                                         min(slice, columns - token));
#pragma unroll
  for (int i = 0; i < Product::ROWS; ++i) {
    const i64 row = first + Product::row(i);
    if (row >= rows) continue;
    float *const to = sums + ((1 + blockIdx.z) * rows + row) * width;
#pragma unroll
    for (int j = 0; j < Product::COLUMNS; ++j)
      if (start + Product::column(j) < width) to[start + Product::column(j)] = product.at(i, j);
  }
}

// Adds slices to what earlier tokens gave, and writes the gradient after the last ones: sums times the weight of the row's loss.
template <class T>
__device__ __forceinline__ void hidden_combine(float *sums, const void *ids, int wide, const float *weights, T *dh, i64 rows, int width, int slices,
                                               int is_first, int is_last, float scale) {
  const i64 at = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= rows * width) return;
  float sum = is_first ? 0.f : sums[at];
  for (int slice = 1; slice <= slices; ++slice) sum += sums[slice * rows * width + at];
  if (!is_last) {
    sums[at] = sum;
    return;
  }
  const i64 row = at / width;
  dh[at] = from_f32<T>(id_at(ids, wide, row) == IGNORED ? 0.f : sum * (weights[row] * scale));
}

// Rows times the weights of their losses; zeros in ignored rows, whatever is in them.
template <class T>
__device__ __forceinline__ void scale_rows(const T *hidden, const void *ids, int wide, const float *weights, T *scaled, i64 rows, int width, float scale) {
  const i64 at = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= rows * width) return;
  const i64 row = at / width;
  scaled[at] = from_f32<T>(id_at(ids, wide, row) == IGNORED ? 0.f : to_f32(hidden[at]) * (weights[row] * scale));
}

// dw += logits^T * scaled hidden states, for the tokens of `logits`.
template <class T>
__device__ __forceinline__ void head_product(const T *logits, const T *scaled, float *dw, i64 rows, int width, int columns, int stride) {
  using Product = Tile<T>;
  DYNAMIC_SHARED(T, memory);
  const int first = blockIdx.x * Product::SIZE, start = blockIdx.y * Product::SIZE;
  Product product;
  product.template multiply<true, true>(memory, {logits, stride, first, columns}, {scaled, width, start, width}, rows);
#pragma unroll
  for (int i = 0; i < Product::ROWS; ++i) {
    const int token = first + Product::row(i);
    if (token >= columns) continue;
    float *const to = dw + static_cast<i64>(token) * width;
#pragma unroll
    for (int j = 0; j < Product::COLUMNS; ++j)
      if (start + Product::column(j) < width) to[start + Product::column(j)] += product.at(i, j);
  }
}

// db += sums over rows of logits times the weights of their losses. A thread has a token.
template <class T>
__device__ __forceinline__ void bias_sum(const T *logits, const void *ids, int wide, const float *weights, float *db, i64 rows, int columns, int stride,
                                         float scale) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  float sum = 0.f;
#pragma unroll 4
  for (i64 row = 0; row < rows; ++row)
    sum += id_at(ids, wide, row) == IGNORED ? 0.f : to_f32(logits[row * stride + column]) * (weights[row] * scale);
  db[column] += sum;
}

#define LINEAR_CE(suffix, T)                                                                                                                      \
  KERNEL(128, linear_ce_given_##suffix, const T *hidden, const T *head, const T *bias, const i64 *offsets, const void *ids, int wide, float *loss, \
         i64 rows, int width, int vocabulary, float scale) {                                                                                       \
    given<T>(hidden, head, bias, offsets, ids, wide, loss, rows, width, vocabulary, scale);                                                        \
  }                                                                                                                                                \
  KERNEL(256, linear_ce_forward_##suffix, const T *hidden, const T *head, const T *bias, const void *ids, int wide, const float *given,            \
         float *partial, i64 rows, int width, int vocabulary, int split, float scale, int totals) {                                                \
    forward<T>(hidden, head, bias, ids, wide, given, partial, rows, width, vocabulary, split, scale, totals);                                      \
  }                                                                                                                                                \
  KERNEL(256, linear_ce_gradient_##suffix, const T *hidden, const T *head, const T *bias, const void *ids, int wide, const float *log_sum_exp,     \
         T *logits, i64 rows, int width, int offset, int columns, int stride, int vocabulary, float scale, float smoothing) {                      \
    gradient<T>(hidden, head, bias, ids, wide, log_sum_exp, logits, rows, width, offset, columns, stride, vocabulary, scale, smoothing);           \
  }                                                                                                                                                \
  KERNEL(256, linear_ce_hidden_##suffix, const T *logits, const T *head, float *sums, i64 rows, int width, int columns, int stride, int slice) {   \
    hidden_product<T>(logits, head, sums, rows, width, columns, stride, slice);                                                                    \
  }                                                                                                                                                \
  KERNEL(256, linear_ce_hidden_combine_##suffix, float *sums, const void *ids, int wide, const float *weights, T *dh, i64 rows, int width,         \
         int slices, int is_first, int is_last, float scale) {                                                                                     \
    hidden_combine<T>(sums, ids, wide, weights, dh, rows, width, slices, is_first, is_last, scale);                                                \
  }                                                                                                                                                \
  KERNEL(256, linear_ce_scale_##suffix, const T *hidden, const void *ids, int wide, const float *weights, T *scaled, i64 rows, int width,          \
         float scale) {                                                                                                                            \
    scale_rows<T>(hidden, ids, wide, weights, scaled, rows, width, scale);                                                                         \
  }                                                                                                                                                \
  KERNEL(256, linear_ce_head_##suffix, const T *logits, const T *scaled, float *dw, i64 rows, int width, int columns, int stride) {                \
    head_product<T>(logits, scaled, dw, rows, width, columns, stride);                                                                             \
  }                                                                                                                                                \
  KERNEL(256, linear_ce_bias_##suffix, const T *logits, const void *ids, int wide, const float *weights, float *db, i64 rows, int columns,         \
         int stride, float scale) {                                                                                                                \
    bias_sum<T>(logits, ids, wide, weights, db, rows, columns, stride, scale);                                                                     \
  }

LINEAR_CE(f32, float)
LINEAR_CE(bf16, bf16)
LINEAR_CE(f16, f16)
