//! Products in pieces, and products with a part of the inputs, against whole products.

use super::{Layout, MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values};

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7919 % 1009) as f32 / 504.0 - 1.0).collect()
}

fn row_major(values: &[f32], rows: usize, columns: usize) -> Matrix<'_> {
    Matrix::row_major(Values::F32(values), rows, columns).unwrap()
}

#[test]
fn pieces_and_parts_of_inputs_have_the_bits_of_the_whole() {
    for precision in [Precision::F32, Precision::Bf16] {
        for (tokens, outputs, inputs) in [(1, 100, 70), (7, 33, 600), (23, 129, 0), (200, 300, 520), (0, 40, 8)] {
            let weights = numbers(outputs * inputs);
            let x = numbers(tokens * inputs);
            let bias = numbers(outputs);
            let packed = PackedWeights::pack(row_major(&weights, outputs, inputs), precision).unwrap();
            let x = row_major(&x, tokens, inputs);
            let mut whole = vec![0.0; tokens * outputs];
            let options = MatmulOptions { bias: Some(&bias), ..MatmulOptions::default() };
            packed.matmul(x, MatrixMut::row_major(&mut whole, tokens, outputs).unwrap(), &options).unwrap();

            let mut padded = bias.clone();
            padded.resize(outputs.next_multiple_of(PackedWeights::COLUMNS), 0.0);
            for (from, width) in [(0, 32), (16, 16), (32, 256)] {
                let mut scratch = vec![f32::NAN; tokens * width];
                let mut columns = from..from;
                packed
                    .matmul_pieces(x, from..outputs, width, &padded, &mut scratch, &mut |piece, values| {
                        assert_eq!(piece.start, columns.end);
                        columns.end = piece.end;
                        for row in 0..tokens {
                            let got = values[row * width..][..piece.len()].iter().map(|value| value.to_bits());
                            let want = whole[row * outputs..][piece.clone()].iter().map(|value| value.to_bits());
                            assert!(got.eq(want), "{tokens} x {outputs} x {inputs}, columns {piece:?}");
                        }
                    })
                    .unwrap();
                assert_eq!(columns.end, outputs.max(from));
            }

            // What is added block by block at the places where the whole product is cut has its bits.
            let depth = 512;
            let mut sum = vec![0.0; tokens * outputs];
            for begin in (0..inputs).step_by(depth) {
                let part = begin..inputs.min(begin + depth);
                let Values::F32(values) = x.values() else { unreachable!() };
                let layout = Layout { columns: part.len(), ..x.layout() };
                let left = Matrix::strided(Values::F32(&values[begin.min(values.len())..]), layout).unwrap();
                packed.add_part(left, part, MatrixMut::row_major(&mut sum, tokens, outputs).unwrap()).unwrap();
            }
            let options = MatmulOptions::default();
            packed.matmul(x, MatrixMut::row_major(&mut whole, tokens, outputs).unwrap(), &options).unwrap();
            // A sum that begins at zero has no negative zero, which a product may be.
            assert!(sum.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits() || (*a == 0.0 && *b == 0.0)));
        }
    }
}

#[test]
fn the_weights_of_an_output_are_given_back() {
    // Numbers that bf16 holds.
    let weights: Vec<f32> = (0..37 * 43).map(|i| (i % 101) as f32 / 16.0).collect();
    for precision in [Precision::F32, Precision::Bf16] {
        let packed = PackedWeights::pack(row_major(&weights, 37, 43), precision).unwrap();
        for output in 0..37 {
            assert!(packed.output(output).eq(weights[output * 43..][..43].iter().copied()));
        }
    }
}

#[test]
fn pieces_and_parts_that_do_not_fit_are_refused() {
    let (weights, x) = ([1.0; 40 * 70], [1.0; 140]);
    let packed = PackedWeights::pack(row_major(&weights, 40, 70), Precision::F32).unwrap();
    let pieces = |from: usize, to: usize, width: usize, bias: &[f32], scratch: usize| {
        let mut scratch = vec![0.0; scratch];
        packed.matmul_pieces(row_major(&x, 2, 70), from..to, width, bias, &mut scratch, &mut |_, _| ())
    };
    assert_eq!(pieces(0, 40, 32, &[], 64), Ok(()));
    for wrong in [
        pieces(8, 40, 32, &[], 64),
        pieces(0, 41, 32, &[], 64),
        pieces(0, 40, 40, &[], 80),
        pieces(0, 40, 0, &[], 80),
        pieces(0, 40, 32, &[0.0; 40], 64),
        pieces(0, 40, 32, &[], 63),
    ] {
        assert!(wrong.is_err());
    }
    let mut y = [0.0; 80];
    let mut add = |columns: usize, part: std::ops::Range<usize>| {
        let left = Matrix::row_major(Values::F32(&x), 2, columns).unwrap();
        packed.add_part(left, part, MatrixMut::row_major(&mut y, 2, 40).unwrap())
    };
    assert_eq!(add(6, 64..70), Ok(()));
    for wrong in [add(6, 63..69), add(6, 0..6), add(5, 64..70), add(64, 32..96)] {
        assert!(wrong.is_err());
    }
}
