//! Rows that a device makes, which here is the CUDA kernels run on the CPU, against those of the CPU.

use gristmill_kernels::device::Device;
use gristmill_kernels_shim::ShimDevice;

use super::super::NormsOf;
use super::*;
use crate::models::gradients::Tap;

fn moved(folder: &Path) -> Model {
    let mut model = load(folder);
    model.move_to(&Device::new(ShimDevice::default()), usize::MAX).unwrap();
    model
}

/// Projected there or here, of documents or of tokens, with norms and without, before and after the sides were scaled.
#[test]
fn rows_of_a_device_are_those_of_the_cpu() {
    for name in ["small/gpt2", "small/neox-sequential", "small/qwen3"] {
        let folder = reference(name).unwrap();
        let (cpu, gpu) = (load(&folder), moved(&folder));
        let mut texts = Expected::of(&folder).texts();
        texts.truncate(3);
        let batch = packed(&texts);
        let target = Target::of(&cpu, &batch);
        for dimension in [0, 4, 8] {
            let mut sketch = Sketch::new(&cpu, &of_dimension(dimension)).unwrap();
            for round in 0..2 {
                for (rows_of, norms_of) in [
                    (RowsOf::Documents, NormsOf::Nothing),
                    (RowsOf::Tokens, NormsOf::Nothing),
                    (RowsOf::Documents, NormsOf::Modules),
                ] {
                    let rows = |model: &Model| {
                        let mut projector = Projector::new(&sketch).with_rows(rows_of).with_norms(norms_of);
                        // What a device makes, and what it hands out to be made here.
                        let there = dimension > 0 && rows_of == RowsOf::Documents && norms_of == NormsOf::Nothing;
                        assert_eq!(projector.projections().is_some(), there);
                        run(&mut Backward::new(model).unwrap(), ALONE, &batch, &target, &mut projector);
                        let norms: Vec<Option<f64>> = (0..texts.len()).map(|text| projector.norm(text)).collect();
                        (projector.rows().to_vec(), norms)
                    };
                    let ((got, got_norms), (expected, norms)) = (rows(&gpu), rows(&cpu));
                    let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
                    let off = off(&got, &expected);
                    assert!(off <= 2e-5, "{name}, {dimension}, {rows_of:?}, {norms_of:?}, {round}: {off}");
                    for (got, expected) in got_norms.into_iter().zip(norms) {
                        let (got, expected) = (got.unwrap_or(0.0), expected.unwrap_or(0.0));
                        assert!((got - expected).abs() <= 1e-4 * expected, "{name}: norm {got} and {expected}");
                    }
                }
                let factors: Vec<f64> =
                    (0..sketch.modules()[0].outputs).map(|output| 0.5 + output as f64 / 16.0).collect();
                sketch.scale_sides(0, Some(&factors), None).unwrap();
            }
        }
    }
}
