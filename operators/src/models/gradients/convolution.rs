//! The way back through the convolution beside the first layer.

use super::pass::Pass;
use crate::models::convolution::Convolution;
use crate::models::error::Result;

impl Pass<'_> {
    /// Whether any parameter of a convolution is wanted.
    pub(super) fn wants_convolution(&self, convolution: &Convolution) -> bool {
        self.wants_linear(&convolution.weights) || self.wants_norm(&convolution.norm)
    }

    /// From `stream`, the gradient of what the norm gave, to that of what the first layer left. What the convolution read, `embedded`,
    /// gets the gradient that is returned, if there is `need` of it; `sum` is what the norm read.
    pub(super) fn convolution(
        &mut self,
        convolution: &Convolution,
        embedded: &[f32],
        sum: &[f32],
        stream: &mut Vec<f32>,
        offsets: &[i64],
        need: bool,
    ) -> Result<Option<Vec<f32>>> {
        let (compute, weights) = (self.compute, &convolution.weights);
        self.norm(&convolution.norm, sum, stream, offsets, 1)?;
        if !need && !self.wants_linear(weights) {
            return Ok(None);
        }
        let seen = convolution.seen(offsets, embedded);
        let mut inner = Vec::new();
        weights.forward(compute, &seen, &mut inner)?;
        let mut delta = stream.clone();
        convolution.activation.backward(compute, &inner, &mut delta)?;
        self.linear(&[(weights, &delta)], &seen, offsets)?;
        if !need {
            return Ok(None);
        }
        let (mut of_seen, mut of_embedded) = (seen, vec![0.0; embedded.len()]);
        weights.backward(compute, &delta, &mut of_seen)?;
        convolution.add_seen(offsets, &of_seen, &mut of_embedded);
        Ok(Some(of_embedded))
    }
}
