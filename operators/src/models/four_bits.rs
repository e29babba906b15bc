//! Weights in four bits: NF4 with double quantisation, as bitsandbytes quantises them when transformers loads a model.
//!
//! A tensor is quantised whole, as it is stored: blocks run across its rows, and scales are quantised together. A layer that has
//! some rows of it, as queries have of a tensor for queries, keys and values, refers to them there, so codes and scales are those of bitsandbytes.
//! A weight takes 4.127 bits, 0.516 bytes.

use std::ops::Range;
use std::sync::Arc;

use gristmill_kernels::gemm::{GemmOptions, MatmulOptions, Matrix, MatrixMut, Precision, Values, gemm};
use gristmill_kernels::nf4::{self, Nf4, Quantised};
use gristmill_kernels::workers::Serial;

use super::error::Result;

/// Weights that are unquantised together: 1 MiB in single precision, which stays in the second cache.
const TOGETHER: usize = 1 << 18;

/// Rows of a quantised tensor.
#[derive(Clone, Debug)]
pub(crate) struct FourBits {
    tensor: Arc<Tensor>,
    /// Which of its rows, in their order.
    rows: Vec<Range<usize>>,
    outputs: usize,
    /// What unquantised weights and activations are rounded to for products.
    operands: Precision,
}

#[derive(Debug)]
struct Tensor {
    nf4: Nf4,
    codes: Vec<u8>,
    scales: Vec<u8>,
    largest: Vec<f32>,
    mean: [f32; 1],
}

impl FourBits {
    /// Quantises `[out, in]` weights.
    pub(crate) fn new(weights: &[f32], outputs: usize, inputs: usize, operands: Precision) -> Result<Self> {
        let nf4 = Nf4 { rows: outputs, columns: inputs };
        let (mut codes, mut scales) = (vec![0; nf4.code_bytes()], vec![0; nf4.blocks()]);
        let (mut largest, mut mean) = (vec![0.0; nf4.groups()], [0.0]);
        let to = Quantised {
            codes: codes.as_mut_slice(),
            scales: scales.as_mut_slice(),
            largest: largest.as_mut_slice(),
            mean: mean.as_mut_slice(),
        };
        nf4.quantise(&Serial, nf4::Values::F32(weights), to)?;
        let whole = 0..outputs;
        let tensor = Arc::new(Tensor { nf4, codes, scales, largest, mean });
        Ok(Self { tensor, rows: vec![whole], outputs, operands })
    }

    /// The layer of these rows, which are within the tensor.
    pub(crate) fn of_rows(&self, rows: impl Iterator<Item = usize>) -> Self {
        let (mut runs, mut outputs) = (Vec::<Range<usize>>::new(), 0);
        for row in rows {
            outputs += 1;
            match runs.last_mut() {
                Some(run) if run.end == row => run.end += 1,
                _ => runs.push(row..row + 1),
            }
        }
        Self { rows: runs, outputs, ..self.clone() }
    }

    /// Columns of the result.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of activations.
    pub(crate) fn inputs(&self) -> usize {
        self.tensor.nf4.columns
    }

    /// Bytes that these rows take.
    pub(crate) fn memory(&self) -> usize {
        let Tensor { nf4, codes, scales, largest, .. } = &*self.tensor;
        let whole = codes.len() + scales.len() + 4 * largest.len() + 4;
        (whole * self.outputs).checked_div(nf4.rows).unwrap_or(0)
    }

    /// The weights that codes stand for, `[out, in]`.
    pub(crate) fn values(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.outputs * self.inputs()];
        self.unquantise(0..self.outputs, &mut values)?;
        Ok(values)
    }

    /// The weights of some outputs.
    fn unquantise(&self, outputs: Range<usize>, mut to: &mut [f32]) -> Result<()> {
        let mut first = 0;
        for run in &self.rows {
            let (start, end) = (outputs.start.max(first), outputs.end.min(first + run.len()));
            if start < end {
                let (part, rest) = to.split_at_mut((end - start) * self.inputs());
                let rows = run.start + start - first..run.start + end - first;
                self.tensor.nf4.dequantise_rows(self.tensor.quantised(), rows, part)?;
                to = rest;
            }
            first += run.len();
        }
        Ok(())
    }

    /// y `[rows, out]` = x·Wᵀ, with what the options say. The engine is chosen.
    pub(crate) fn multiply(&self, rows: usize, x: &[f32], y: &mut [f32], options: &MatmulOptions<'_>) -> Result<()> {
        let (inputs, outputs) = (self.inputs(), self.outputs);
        let x = Matrix::row_major(Values::F32(x), rows, inputs)?;
        if self.operands == Precision::Bf16 && self.rows.first() == Some(&(0..self.tensor.nf4.rows)) {
            let y = MatrixMut::row_major(y, rows, outputs)?;
            return Ok(self.tensor.nf4.matmul(self.tensor.quantised(), x, y, options)?);
        }
        let MatmulOptions { accumulate, threads, .. } = *options;
        let options_of_part = GemmOptions { precision: self.operands, accumulate, threads, engine: None };
        let together = (TOGETHER / inputs.max(1)).max(1);
        let mut weights = Vec::new();
        for start in (0..outputs).step_by(together) {
            let part = start..outputs.min(start + together);
            weights.resize(part.len() * inputs, 0.0);
            self.unquantise(part.clone(), &mut weights)?;
            let right = Matrix::row_major(Values::F32(&weights), part.len(), inputs)?.transposed();
            let to = y.get_mut(start..).unwrap_or_default();
            gemm(x, right, MatrixMut::strided(to, rows, part.len(), outputs)?, &options_of_part)?;
        }
        if let Some(bias) = options.bias {
            for y in y.chunks_exact_mut(outputs.max(1)) {
                y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
        Ok(())
    }
}

impl Tensor {
    fn quantised(&self) -> Quantised<&[u8], &[f32]> {
        Quantised { codes: &self.codes, scales: &self.scales, largest: &self.largest, mean: &self.mean }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::path::Path;

    use gristmill_kernels::gemm::PackedWeights;
    use safetensors::SafeTensors;

    use super::*;
    use crate::Resources;
    use crate::models::tests::ALONE;
    use crate::models::{Batch, LoadOptions, Model};

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed) as f32 * 0.37).sin() * (1.0 + (i % 11) as f32)).collect()
    }

    /// Rows of a tensor in another order, with a bias, added to what is there, in pieces: as a product with the unquantised rows.
    #[test]
    fn products_are_those_with_unquantised_rows() {
        for (outputs, inputs, rows) in [(6, 40, 3), (1100, 300, 2), (64, 64, 5), (3, 1, 1), (4, 8, 0)] {
            let weights = values(outputs * inputs, 1);
            let x = values(rows * inputs, 2);
            for operands in [Precision::F32, Precision::Bf16] {
                let whole = FourBits::new(&weights, outputs, inputs, operands).unwrap();
                let unquantised = whole.values().unwrap();
                let whole_order: Vec<usize> = (0..outputs).collect();
                let other = (0..outputs).filter(|row| row % 3 != 1).chain([outputs - 1, 0]).collect::<Vec<_>>();
                let parts = [(whole.clone(), whole_order), (whole.of_rows(other.iter().copied()), other)];
                for (part, order) in parts {
                    let own: Vec<f32> =
                        order.iter().flat_map(|&row| &unquantised[row * inputs..(row + 1) * inputs]).copied().collect();
                    assert_eq!(part.values().unwrap(), own);
                    let bias = values(part.outputs(), 3);
                    for accumulate in [false, true] {
                        let options = MatmulOptions { bias: Some(&bias), accumulate, ..MatmulOptions::default() };
                        let mut y = vec![1.0; rows * part.outputs()];
                        part.multiply(rows, &x, &mut y, &options).unwrap();
                        let own = Matrix::row_major(Values::F32(&own), part.outputs(), inputs).unwrap();
                        let packed = PackedWeights::pack(own, operands).unwrap();
                        let mut expected = vec![1.0; y.len()];
                        let to = MatrixMut::row_major(&mut expected, rows, part.outputs()).unwrap();
                        let x = Matrix::row_major(Values::F32(&x), rows, inputs).unwrap();
                        packed.matmul(x, to, &options).unwrap();
                        for (y, expected) in y.iter().zip(&expected) {
                            // The bias may be added before or after what is there.
                            assert!((y - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{y} {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_weight_takes_little_more_than_half_a_byte() {
        let weights = FourBits::new(&values(1 << 16, 0), 256, 256, Precision::F32).unwrap();
        assert_eq!(weights.memory(), (1 << 15) + (1 << 10) + 4 * 4 + 4);
        assert_eq!(weights.of_rows(0..64).memory(), weights.memory() / 4);
        assert!(FourBits::new(&[], 0, 4, Precision::F32).unwrap().memory() == 0);
    }

    /// The layers that transformers quantises, with the codes and scales of bitsandbytes.
    #[test]
    fn models_give_the_logits_of_transformers_with_bitsandbytes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models");
        let bytes = std::fs::read(folder.join("nf4.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let names = ["gpt2", "qwen3", "neox-sequential", "llama-classifier", "roberta-classifier", "modernbert-mean"];
        for name in names {
            let data = |part: &str| tensors.tensor(&format!("{name}.{part}")).unwrap().data().to_vec();
            let ids: Vec<u32> =
                data("input_ids").chunks_exact(8).map(|id| i64::from_le_bytes(id.try_into().unwrap()) as u32).collect();
            let expected: Vec<f32> =
                data("logits").chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
            let location = folder.join("small").join(name);
            let load = |four_bits| {
                let options = LoadOptions { four_bits, ..LoadOptions::default() };
                let model = Model::load(&location.to_string_lossy(), &Resources::local(), options).unwrap().0;
                let batch = Batch::of(&ids);
                model.classify(ALONE, &batch).unwrap().or_else(|| model.logits(ALONE, &batch).unwrap()).unwrap()
            };
            let off = |logits: &[f32]| {
                assert_eq!(logits.len(), expected.len());
                logits.iter().zip(&expected).fold(0_f32, |most, (a, b)| most.max((a - b).abs()))
            };
            let (own, plain) = (off(&load(true)), off(&load(false)));
            println!("{name}: logits differ by {own:e}, without quantisation by {plain:e}");
            assert!(own <= 2e-5, "{name}: {own}");
            assert!(plain > 0.01, "{name}: {plain}");
        }
    }
}
