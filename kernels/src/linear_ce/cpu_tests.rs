//! The twin beyond the table of cases: refusals, precision, and how much of it is asked for.

use super::{Gradients, Head, HeadGradients, IGNORED, Ids, LinearCe, Scores, Tokens};
use crate::gemm::{Matrix, Precision, Values};
use crate::launch::ShapeError;
use crate::workers::Serial;

const SIZES: (usize, usize, usize) = (5, 40, 700);

/// Numbers that bf16 holds, between -1 and 1.
fn numbers(count: usize, step: usize) -> Vec<f32> {
    (0..count).map(|i| (i * step % 127) as f32 / 64.0 - 1.0).collect()
}

fn linear_ce() -> LinearCe {
    LinearCe { width: SIZES.1, vocabulary: SIZES.2, logit_scale: 1.0, label_smoothing: 0.0 }
}

fn head(weights: &[f32], precision: Precision) -> Head {
    let weights = Matrix::row_major(Values::F32(weights), SIZES.2, SIZES.1).unwrap();
    Head::with_gradients(weights, None, precision).unwrap()
}

#[test]
fn a_head_in_bf16_gives_what_its_numbers_give_in_f32() {
    let (rows, width, vocabulary) = SIZES;
    let (hidden, weights) = (numbers(rows * width, 31), numbers(vocabulary * width, 53));
    let ids = [699_i64, 0, 3, IGNORED, 255];
    let solve = |precision| {
        let head = head(&weights, precision);
        let (mut loss, mut log_sum_exp) = (vec![0.0; rows], vec![0.0; rows]);
        let tokens = Tokens { ids: Ids::I64(&ids), offsets: None };
        let scores = Scores::new(&mut loss, &mut log_sum_exp);
        linear_ce().forward(&Serial, &hidden, &head, tokens, scores).unwrap();
        let (mut dh, mut dw) = (vec![0.0; rows * width], vec![0.0; vocabulary * width]);
        let gradients = Gradients { hidden: Some(&mut dh), head: Some(HeadGradients { weights: &mut dw, bias: None }) };
        let backward =
            linear_ce().backward(&Serial, &hidden, &head, Ids::I64(&ids), &log_sum_exp, &[1.0; SIZES.0], gradients);
        backward.unwrap();
        (loss, dh, dw, head.memory())
    };
    let (loss, dh, dw, memory) = solve(Precision::F32);
    let (half_loss, half_dh, half_dw, half_memory) = solve(Precision::Bf16);
    assert!(half_memory < memory, "{half_memory} {memory}");
    for (a, b) in loss.iter().zip(&half_loss) {
        assert!((a - b).abs() < 1e-4, "{a} {b}: sums of 40 numbers up to 1, in another order");
    }
    // Gradients of logits are rounded to bf16, at most 1/256 of each, and add up to no more than 2 in a row.
    for (a, b) in dh.iter().zip(&half_dh).chain(dw.iter().zip(&half_dw)) {
        assert!((a - b).abs() < 2.0 / 256.0 + 1e-4, "{a} {b}");
    }
    assert!(dh.iter().any(|&value| value.abs() > 0.1));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let (rows, width, vocabulary) = SIZES;
    let (hidden, weights) = (numbers(rows * width, 31), numbers(vocabulary * width, 53));
    let plain = Matrix::row_major(Values::F32(&weights), vocabulary, width).unwrap();
    let scoring = Head::new(plain, None, Precision::F32).unwrap();
    assert!(Head::new(plain, Some(&[0.0; 3]), Precision::F32).is_err());

    let forward = |hidden: &[f32], ids: &[i32], offsets: Option<&[i64]>, ranks: usize| {
        let (mut loss, mut log_sum_exp, mut rank) = (vec![0.0; ids.len()], vec![0.0; rows], vec![0; ranks]);
        let scores = Scores { rank: (ranks > 0).then_some(&mut rank[..]), ..Scores::new(&mut loss, &mut log_sum_exp) };
        linear_ce().forward(&Serial, hidden, &scoring, Tokens { ids: Ids::I32(ids), offsets }, scores)
    };
    assert_eq!(forward(&hidden, &[0; 5], None, 5), Ok(()));
    assert_eq!(forward(&hidden, &[0; 3], Some(&[0, 1, 1, 2, 2, 3]), 0), Ok(()));
    for wrong in [
        forward(&hidden[1..], &[0; 5], None, 0),
        forward(&hidden, &[0; 4], None, 0),
        forward(&hidden, &[0; 5], None, 4),
        forward(&hidden, &[0; 3], Some(&[0, 1, 1, 2, 2, 3]), 5),
        forward(&hidden, &[0; 3], Some(&[0, 1, 1, 2, 3]), 0),
        forward(&hidden, &[0; 3], Some(&[0, 2, 1, 2, 2, 3]), 0),
        forward(&hidden, &[0; 3], Some(&[1, 1, 1, 2, 2, 3]), 0),
        forward(&hidden, &[0; 3], Some(&[0, 1, 1, 2, 2, 2]), 0),
    ] {
        assert!(wrong.is_err());
    }
    for id in [-1, -99, 700] {
        let error = forward(&hidden, &[0, 0, id, 0, 0], None, 0).unwrap_err();
        assert!(matches!(error, ShapeError::Value { name: "ids", index: 2, actual, .. } if actual == i64::from(id)));
    }

    // A head for scoring has no gradients of hidden states, but those of its own.
    let backward = |dh: Option<&mut [f32]>, dw: usize, weights: usize| {
        let mut dw = vec![0.0; dw];
        let head = (!dw.is_empty()).then_some(HeadGradients { weights: &mut dw, bias: None });
        let gradients = Gradients { hidden: dh, head };
        let weights = vec![1.0; weights];
        linear_ce().backward(&Serial, &hidden, &scoring, Ids::I32(&[0; 5]), &[1.0; 5], &weights, gradients)
    };
    assert_eq!(backward(None, vocabulary * width, 5), Ok(()));
    assert!(backward(Some(&mut vec![0.0; rows * width]), 0, 5).is_err());
    assert!(backward(None, vocabulary * width - 1, 5).is_err());
    assert!(backward(None, vocabulary * width, 4).is_err());
}

#[test]
fn ignored_rows_have_no_gradient_whatever_they_hold() {
    let (rows, width, vocabulary) = SIZES;
    let (mut hidden, weights) = (numbers(rows * width, 31), numbers(vocabulary * width, 53));
    hidden[width] = f32::NAN;
    let ids = [3, -100, 4, 5, 6];
    let head = head(&weights, Precision::F32);
    let (mut loss, mut log_sum_exp) = (vec![0.0; rows], vec![0.0; rows]);
    let tokens = Tokens { ids: Ids::I32(&ids), offsets: None };
    linear_ce().forward(&Serial, &hidden, &head, tokens, Scores::new(&mut loss, &mut log_sum_exp)).unwrap();
    assert!(loss[1] == 0.0 && log_sum_exp[1].is_nan() && loss.iter().all(|loss| loss.is_finite()));
    let (mut dh, mut dw) = (vec![1.0; rows * width], vec![0.0; vocabulary * width]);
    let gradients = Gradients { hidden: Some(&mut dh), head: Some(HeadGradients { weights: &mut dw, bias: None }) };
    let weights = [1.0, f32::NAN, 1.0, 1.0, 1.0];
    linear_ce().backward(&Serial, &hidden, &head, Ids::I32(&ids), &log_sum_exp, &weights, gradients).unwrap();
    assert!(dh[width..2 * width].iter().all(|&value| value == 0.0));
    assert!(dh.iter().chain(&dw).all(|value| value.is_finite()));
}
