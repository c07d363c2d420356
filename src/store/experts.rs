//! The port through which a model gets its experts: it asks for the experts of a layer as soon as the router has
//! chosen, and reads them when it computes. Today the page cache holds them and the kernel is told what to read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::mapping::{ExpertTensor, ModelFile, StoreError};
use super::residency::Residency;
use super::system::System;
use crate::gguf::TensorInfo;

/// The expert tensors of one layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerExperts<'m> {
    /// `[n_embd, n_ff, n_experts]`.
    pub gate: &'m TensorInfo,
    /// `[n_embd, n_ff, n_experts]`.
    pub up: &'m TensorInfo,
    /// `[n_ff, n_embd, n_experts]`.
    pub down: &'m TensorInfo,
}

/// The weights of one expert, each matrix row after row.
#[derive(Debug, Clone, Copy)]
pub struct ExpertBytes<'m> {
    /// `[n_embd, n_ff]`.
    pub gate: &'m [u8],
    /// `[n_embd, n_ff]`.
    pub up: &'m [u8],
    /// `[n_ff, n_embd]`.
    pub down: &'m [u8],
}

/// Every expert of a model, by layer.
#[derive(Debug)]
pub struct ExpertStore<'m> {
    model: &'m ModelFile,
    residency: Residency<'m>,
    /// How many bytes may come in before one that is in memory might have had to leave.
    lasting_bytes: u64,
    /// Bytes of experts that the kernel was told to read in so far.
    read_bytes: AtomicU64,
    /// `None` for a dense layer.
    layers: Vec<Option<Layer>>,
}

#[derive(Debug)]
struct Layer {
    gate: ExpertTensor,
    up: ExpertTensor,
    down: ExpertTensor,
    /// `[n_experts]`: what `read_bytes` was when the expert was last found in memory or asked for, plus 1; 0: never.
    asked: Vec<AtomicU64>,
}

impl<'m> ExpertStore<'m> {
    /// `layers`: one entry a layer of the model, `None` where it is dense.
    ///
    /// # Errors
    /// A tensor that does not hold as many experts as the gate of its layer.
    pub fn new(model: &'m ModelFile, layers: &[Option<LayerExperts<'m>>]) -> Result<ExpertStore<'m>, StoreError> {
        let available = System::discover().memory().map(|m| m.available);
        // The kernel evicts about in the order of use, from half of the page cache; a quarter errs on the safe side.
        let lasting_bytes = available.map_or(0, |available| available / 4);
        let layers = layers.iter().map(|l| l.as_ref().map(Layer::new).transpose()).collect::<Result<_, _>>()?;
        let (residency, read_bytes) = (Residency::new(model), AtomicU64::new(0));
        Ok(ExpertStore { model, residency, lasting_bytes, read_bytes, layers })
    }

    /// Tells the store that these experts of the layer will be read soon. Returns at once; what is not in memory is on
    /// its way from the disk then.
    ///
    /// Costs nothing for experts that cannot have left memory since they were last asked for. Of the others the kernel
    /// is asked what is missing: 2 µs for each MiB that is not.
    ///
    /// # Panics
    /// Where the layer is dense or has no such expert.
    pub fn request(&self, layer: usize, experts: &[usize]) {
        let layer = self.layer(layer);
        for &expert in experts {
            let now = self.read_bytes.load(Relaxed);
            let asked = layer.asked[expert].load(Relaxed);
            if asked != 0 && now.saturating_sub(asked - 1) < self.lasting_bytes {
                continue;
            }
            layer.asked[expert].store(now + 1, Relaxed);
            for tensor in layer.tensors() {
                let range = tensor.range(expert);
                // Advice about what is resident would cost twice as much as this question.
                if self.residency.resident_bytes(range) != Some(range.n_bytes) {
                    self.model.will_need(range);
                    self.read_bytes.fetch_add(range.n_bytes, Relaxed);
                }
            }
        }
    }

    /// The expert's weights. What is not in memory is read when it is touched.
    ///
    /// # Panics
    /// Where the layer is dense or has no such expert.
    pub fn bytes(&self, layer: usize, expert: usize) -> ExpertBytes<'m> {
        let [gate, up, down] = self.layer(layer).tensors().map(|t| self.model.bytes(t.range(expert)));
        ExpertBytes { gate, up, down }
    }

    fn layer(&self, layer: usize) -> &Layer {
        let found = self.layers.get(layer).and_then(Option::as_ref);
        found.unwrap_or_else(|| panic!("layer {layer} of {} has no experts", self.layers.len()))
    }
}

impl Layer {
    fn new(LayerExperts { gate, up, down }: &LayerExperts<'_>) -> Result<Layer, StoreError> {
        let n_experts = ExpertTensor::of(gate).map_or(0, |t| t.n_experts());
        let experts = |tensor: &TensorInfo| {
            let found = ExpertTensor::of(tensor).filter(|t| t.n_experts() == n_experts);
            found.ok_or_else(|| StoreError::Experts {
                name: tensor.name.clone(),
                found: tensor.shape.clone(),
                gate: gate.name.clone(),
            })
        };
        let (gate, up, down) = (experts(gate)?, experts(up)?, experts(down)?);
        let asked = (0..n_experts).map(|_| AtomicU64::new(0)).collect();
        Ok(Layer { gate, up, down, asked })
    }

    fn tensors(&self) -> [ExpertTensor; 3] {
        [self.gate, self.up, self.down]
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::gguf::Metadata;
    use crate::gguf::writer::{TensorPlan, Writer};
    use crate::quant::GgmlType;

    fn write(out: impl Write, shapes: [&[u64]; 3]) {
        let plan =
            |(name, shape): (&str, &[u64])| TensorPlan { name: name.into(), shape: shape.into(), ty: GgmlType::I8 };
        let plans: Vec<_> = ["gate", "up", "down"].into_iter().zip(shapes).map(plan).collect();
        let mut writer = Writer::new(out, &Metadata::default(), &plans).unwrap();
        for (i, plan) in plans.iter().enumerate() {
            let n_experts = plan.shape.get(2).copied().unwrap_or(1);
            let n_bytes = plan.shape.iter().product::<u64>() / n_experts;
            for expert in 0..n_experts {
                writer.write(&plan.name, &vec![(10 * i as u64 + expert) as u8; n_bytes as usize]).unwrap();
            }
        }
        writer.finish().unwrap();
    }

    fn model(shapes: [&[u64]; 3]) -> ModelFile {
        let mut bytes = Vec::new();
        write(&mut bytes, shapes);
        ModelFile::from_bytes(&bytes).unwrap()
    }

    fn store(model: &ModelFile) -> Result<ExpertStore<'_>, StoreError> {
        let tensor = |name| model.gguf().tensor(name).unwrap();
        let experts = LayerExperts { gate: tensor("gate"), up: tensor("up"), down: tensor("down") };
        ExpertStore::new(model, &[None, Some(experts)])
    }

    #[test]
    fn every_expert_has_its_own_bytes() {
        let model = model([&[4, 6, 3], &[4, 6, 3], &[6, 4, 3]]);
        let store = store(&model).unwrap();
        store.request(1, &[2, 0]);
        for expert in 0..3u8 {
            let bytes = store.bytes(1, expert.into());
            assert_eq!(bytes.gate, [expert; 24]);
            assert_eq!(bytes.up, [10 + expert; 24]);
            assert_eq!(bytes.down, [20 + expert; 24]);
        }
    }

    #[test]
    fn tensors_with_other_experts_than_the_gate_are_refused() {
        for (shapes, name) in [
            ([&[4, 6, 3][..], &[4, 6, 3], &[6, 4, 2]], "`down`"),
            ([&[4, 6, 3], &[4, 6], &[6, 4, 3]], "`up`"),
            ([&[4, 6], &[4, 6, 3], &[6, 4, 3]], "`gate`"),
        ] {
            let model = model(shapes);
            let error = store(&model).unwrap_err().to_string();
            assert!(error.contains(&format!("tensor {name} has shape")), "{error}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_requested_comes_in_without_being_touched() {
        // A file on a disk, as this test is: the pages of a tmpfs cannot be dropped.
        let beside = std::env::current_exe().unwrap();
        let file = tempfile::NamedTempFile::new_in(beside.parent().unwrap()).unwrap();
        write(file.as_file(), [&[1024, 1024, 3], &[1024, 1024, 3], &[1024, 1024, 3]]);
        file.as_file().sync_all().unwrap();
        let model = ModelFile::open(&file).unwrap();
        let store = store(&model).unwrap();
        let of = |expert| store.layers[1].as_ref().unwrap().tensors().map(|t| t.range(expert));
        let resident = |expert| of(expert).iter().map(|&r| store.residency.resident_bytes(r)).sum::<Option<u64>>();
        rustix::fs::fadvise(file.as_file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
        if resident(2).is_none_or(|bytes| bytes > 0) {
            println!("SKIP: this system does not say what is resident, or does not drop it");
            return;
        }
        store.request(1, &[2]);
        let start = Instant::now();
        while resident(2) != Some(3 << 20) {
            assert!(start.elapsed() < Duration::from_secs(10), "only {:?} bytes came in", resident(2));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(store.read_bytes.load(Relaxed), 3 << 20);
        store.request(1, &[2]);
        assert_eq!(store.read_bytes.load(Relaxed), 3 << 20, "what is in memory is not asked for again");
    }
}
