//! What of a model is in memory, expert by expert: a walk over its files that does a little at every call, so that the
//! map on screen stays true without slowing the engine. Kernel's answers in, [`ExpertMap`] and resident bytes out.

use std::time::{Duration, Instant};

use super::mapping::{ExpertTensor, FileRange, ModelFile, is_expert_tensor, layer_of};
use super::residency::Residency;
use crate::gguf::TensorInfo;
use crate::telemetry::ExpertMap;

/// Bytes of a file asked about at once for the sum over the model: about 0.2 ms for the kernel.
const SLICE_BYTES: u64 = 256 << 20;

/// A walk over a model's residency, and how far it has come.
#[derive(Debug)]
pub struct ResidencySurvey<'m> {
    residency: Residency<'m>,
    layers: Vec<Layer>,
    next_layer: usize,
    /// Whether the cells of experts are left to who holds these.
    leaves_experts: bool,
    /// All of the files, and how much of each slice was resident when last asked.
    slices: Vec<(FileRange, Option<u64>)>,
    next_slice: usize,
}

/// Where the bytes of a layer's cells lie.
#[derive(Debug, Default, Clone)]
struct Layer {
    experts: Vec<ExpertTensor>,
    /// All other tensors of the layer.
    dense: Vec<FileRange>,
}

impl<'m> ResidencySurvey<'m> {
    pub fn new(model: &'m ModelFile) -> ResidencySurvey<'m> {
        let gguf = model.gguf();
        let mut layers = Vec::new();
        for tensor in &gguf.tensors {
            // A layer has at least one tensor, which bounds what a name can make of the list.
            let Some(layer) = layer_of(&tensor.name).filter(|&l| l < gguf.tensors.len()) else { continue };
            if layers.len() <= layer {
                layers.resize(layer + 1, Layer::default());
            }
            let TensorInfo { file, offset, n_bytes, .. } = *tensor;
            match ExpertTensor::of(tensor).filter(|_| is_expert_tensor(tensor)) {
                Some(experts) => layers[layer].experts.push(experts),
                None => layers[layer].dense.push(FileRange { file, offset, n_bytes }),
            }
        }
        let slices = gguf.files.iter().enumerate().flat_map(|(file, f)| {
            let starts = (0..f.bytes).step_by(SLICE_BYTES as usize);
            starts.map(move |offset| FileRange { file, offset, n_bytes: SLICE_BYTES.min(f.bytes - offset) })
        });
        let slices = slices.map(|range| (range, None)).collect();
        ResidencySurvey {
            residency: Residency::new(model),
            layers,
            next_layer: 0,
            leaves_experts: false,
            slices,
            next_slice: 0,
        }
    }

    /// The survey of a model whose experts are not in the page cache: their cells are left as they are.
    #[must_use]
    pub fn without_experts(self) -> ResidencySurvey<'m> {
        ResidencySurvey { leaves_experts: true, ..self }
    }

    /// How the kernel is asked; see [`Residency::source`].
    pub fn source(&self) -> Option<&'static str> {
        self.residency.source()
    }

    /// Goes on for about `budget`, at least one layer and one slice, at most once around.
    ///
    /// A layer with experts fills its cells with the share of each expert that is resident, a dense layer its first
    /// cell with that of all its weights. Cells outside `map` are left out.
    pub fn step(&mut self, map: &ExpertMap, budget: Duration) {
        let start = Instant::now();
        for turn in 0..self.layers.len().max(self.slices.len()) {
            if turn > 0 && start.elapsed() >= budget {
                return;
            }
            if turn < self.layers.len() {
                self.survey_layer(map);
            }
            if turn < self.slices.len() {
                let (range, resident) = &mut self.slices[self.next_slice];
                *resident = self.residency.resident_bytes(*range);
                self.next_slice = (self.next_slice + 1) % self.slices.len();
            }
        }
    }

    /// Bytes of the model's files in memory; `None`: unknown, or not once around yet.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.slices.iter().map(|(_, resident)| *resident).sum()
    }

    fn survey_layer(&mut self, map: &ExpertMap) {
        let index = self.next_layer;
        self.next_layer = (index + 1) % self.layers.len();
        if index >= map.n_layers() {
            return;
        }
        let layer = &self.layers[index];
        let n_experts = layer.experts.iter().map(ExpertTensor::n_experts).min();
        if let Some(n_experts) = n_experts {
            if self.leaves_experts {
                return;
            }
            for expert in 0..n_experts.min(map.n_experts()) {
                map.set_resident(index, expert, self.share(layer.experts.iter().map(|t| t.range(expert))));
            }
        } else if map.n_experts() > 0 {
            map.set_resident(index, 0, self.share(layer.dense.iter().copied()));
        }
    }

    /// The resident share of some ranges, 0 to 1.
    fn share(&self, ranges: impl Iterator<Item = FileRange>) -> Option<f32> {
        let (mut resident, mut all) = (0, 0);
        for range in ranges {
            resident += self.residency.resident_bytes(range)?;
            all += range.n_bytes;
        }
        (all > 0).then(|| (resident as f64 / all as f64) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Metadata;
    use crate::gguf::writer::{TensorPlan, Writer};
    use crate::quant::GgmlType;

    #[test]
    fn a_survey_fills_the_map_a_layer_at_a_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let names = ["blk.0.attn_q.weight", "blk.1.ffn_up_exps.weight", "blk.1.attn_q.weight", "blk.77777777.x"];
        let shape = [[1 << 16, 1, 1], [1 << 16, 1, 4], [1 << 16, 1, 1], [1, 1, 1]];
        let plan = |(name, shape): (&&str, &[u64; 3])| TensorPlan {
            name: (*name).into(),
            shape: shape.into(),
            ty: GgmlType::I8,
        };
        let plans: Vec<_> = names.iter().zip(&shape).map(plan).collect();
        let mut writer = Writer::new(file.as_file(), &Metadata::default(), &plans).unwrap();
        for plan in &plans {
            writer.write(&plan.name, &vec![1; plan.shape.iter().product::<u64>() as usize]).unwrap();
        }
        writer.finish().unwrap();

        let model = ModelFile::open(file.path()).unwrap();
        let mut survey = ResidencySurvey::new(&model);
        let map = ExpertMap::new(2, 4);
        assert_eq!(survey.resident_bytes(), None, "nothing is known before the first step");
        survey.step(&map, Duration::ZERO);
        if survey.source().is_none() {
            println!("SKIP: this system does not say what is resident");
            return;
        }
        assert_eq!((map.resident(0, 0), map.resident(0, 1), map.resident(1, 0)), (Some(1.0), None, None));
        survey.step(&map, Duration::from_secs(1));
        assert!((0..4).all(|expert| map.resident(1, expert) == Some(1.0)), "{map:?}");
        assert_eq!(survey.resident_bytes(), Some(model.gguf().file_bytes()));
        survey.step(&ExpertMap::new(1, 0), Duration::from_secs(1));
        let map = ExpertMap::new(2, 4);
        survey.without_experts().step(&map, Duration::from_secs(1));
        assert_eq!((map.resident(0, 0), map.resident(1, 0)), (Some(1.0), None), "experts are elsewhere");
    }
}
