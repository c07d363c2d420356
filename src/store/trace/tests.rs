//! What is recorded is read back; what is cut off or damaged is told apart and never more than its own size in memory.

use proptest::prelude::*;

use super::*;

fn shape() -> Shape {
    let layers = [(0, 0), (8, 1000), (200, 3 << 20)];
    Shape {
        name: "a model".into(),
        n_used: 2,
        dense_bytes: 12345,
        layers: layers.map(|(n_experts, slot_bytes)| LayerShape { n_experts, slot_bytes }).to_vec(),
    }
}

/// Records passes as the engine does; gives the file's bytes.
fn record(passes: &[Pass]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let recorder = TraceRecorder::create(file.path(), &shape()).unwrap();
    for pass in passes {
        recorder.pass(pass.n_tokens as usize);
        for layer in &pass.layers {
            let number = layer.layer as usize;
            if !layer.predicted.is_empty() {
                recorder.predicted(number, &layer.predicted.iter().map(|&e| e as usize).collect::<Vec<_>>());
            }
            if !layer.weights.is_empty() {
                let weights = layer.demanded.iter().zip(&layer.weights);
                recorder.token_layer(number, weights.map(|(d, &weight)| (d.expert as usize, weight)));
            } else if !layer.demanded.is_empty() {
                recorder.layer(number, layer.demanded.iter().map(|d| (d.expert as usize, d.n_tokens as usize)));
            }
            if let Some(cost) = layer.cost {
                recorder.cost(number, cost);
            }
        }
        recorder.end_pass(pass.outcome);
    }
    recorder.finish().unwrap();
    std::fs::read(file.path()).unwrap()
}

/// All passes, their wall times left out, and whether the trace was cut off.
fn read(bytes: &[u8]) -> Result<(Vec<Pass>, bool), TraceError> {
    let mut reader = TraceReader::new(bytes)?;
    assert_eq!(*reader.shape(), shape());
    let mut passes = Vec::new();
    while let Some(pass) = reader.next_pass()? {
        passes.push(Pass { wall_us: 0, ..pass });
    }
    Ok((passes, reader.cut_off()))
}

fn layer(layer: u32, n_experts: u32, n_tokens: u32) -> impl Strategy<Value = LayerRecord> {
    let demanded = prop::collection::btree_map(0..n_experts, 1..=n_tokens, 0..8.min(n_experts as usize));
    let predicted = prop::collection::vec(0..n_experts, 0..4);
    let cost = prop::option::of((any::<u64>(), prop::option::of((any::<u64>(), any::<u64>()))));
    use prop::num::f32::{INFINITE, NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    let weights = prop::option::of(prop::array::uniform8(POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO | INFINITE));
    let micros = Duration::from_micros;
    (demanded, predicted, cost, weights).prop_map(move |(demanded, predicted, cost, weights)| LayerRecord {
        layer,
        weights: weights.filter(|_| n_tokens == 1).map_or_else(Vec::new, |all| all[..demanded.len()].to_vec()),
        demanded: demanded.into_iter().map(|(expert, n_tokens)| Demand { expert, n_tokens }).collect(),
        predicted,
        cost: cost.map(|(compute, counted)| LayerCost {
            compute: micros(compute),
            stall: counted.map(|(stall, _)| micros(stall)),
            read_bytes: counted.map(|(_, read_bytes)| read_bytes),
        }),
    })
}

fn pass() -> impl Strategy<Value = Pass> {
    let outcome = prop_oneof![Just(Outcome::Whole), Just(Outcome::Cancelled)];
    (prop_oneof![Just(1u32), 2u32..600], outcome).prop_flat_map(|(n_tokens, outcome)| {
        (layer(1, 8, n_tokens), layer(2, 200, n_tokens)).prop_map(move |(a, b)| Pass {
            n_tokens,
            wall_us: 0,
            outcome,
            layers: [a, b]
                .into_iter()
                .filter(|l| *l != LayerRecord { layer: l.layer, ..LayerRecord::default() })
                .collect(),
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_recorded_is_read_back_and_a_prefix_gives_the_passes_it_holds(
        passes in prop::collection::vec(pass(), 0..6),
        cut in 0.0f64..1.0,
    ) {
        let bytes = record(&passes);
        prop_assert_eq!(read(&bytes).unwrap(), (passes.clone(), false));
        let header = record(&[]).len();
        let end = header + ((bytes.len() - header) as f64 * cut) as usize;
        let mut ends = vec![header as u64];
        let mut reader = TraceReader::new(&bytes[..]).unwrap();
        while reader.next_pass().unwrap().is_some() {
            ends.push(reader.offset);
        }
        let whole = ends.iter().filter(|&&e| e <= end as u64).count() - 1;
        let (found, cut_off) = read(&bytes[..end]).unwrap();
        prop_assert_eq!(&found[..], &passes[..whole]);
        prop_assert_eq!(cut_off, !ends.contains(&(end as u64)));
    }

    #[test]
    fn damaged_traces_end_in_an_error_or_in_numbers_within_the_shape(
        passes in prop::collection::vec(pass(), 1..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = record(&passes);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let Ok(mut reader) = TraceReader::new(&bytes[..]) else { return Ok(()) };
        let shape = reader.shape().clone();
        while let Ok(Some(pass)) = reader.next_pass() {
            for layer in &pass.layers {
                let shape = shape.layers[layer.layer as usize];
                prop_assert!(layer.demanded.windows(2).all(|w| w[0].expert < w[1].expert));
                prop_assert!(layer.demanded.iter().all(|d| d.expert < shape.n_experts && d.n_tokens <= pass.n_tokens));
                let n_weights = layer.weights.len();
                prop_assert!(n_weights == 0 || pass.n_tokens == 1 && n_weights == layer.demanded.len());
                prop_assert!(layer.predicted.iter().all(|&e| e < shape.n_experts));
            }
        }
    }
}

#[test]
fn errors_name_the_place_and_what_was_expected() {
    let error = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
    assert!(error(b"GGUF").contains("no trace"));
    assert!(error(b"WAYTRACE\x09").contains("version 9, and this program reads versions 1 to 2"));
    assert!(error(b"WAYTRACE\x00").contains("version 0"));
    let good = record(&[]);
    assert!(error(&good[..good.len() - 3]).contains("the header ends early"), "{}", error(&good[..good.len() - 3]));
    let with = |frame: &[u8]| error(&[&good[..], &[frame.len() as u8], frame].concat());
    assert!(with(&[0]).contains("without tokens"));
    assert!(with(&[1, 1, 3]).contains("the layer is 3, expected at most 2"));
    assert!(with(&[1, 1, 1, 2, 7, 0]).contains("an expert after the last of 8"));
    assert!(with(&[1, 9]).contains("kind 9"));
    assert!(with(&[1, 4, 0, 0, 5]).contains("1 bytes after"));
    assert!(with(&[2, 5, 1, 1, 7, 0, 0, 0, 0]).contains("one token's weights in a pass of 2"));
    assert!(with(&[1, 5, 1, 1, 7, 0, 0, 0]).contains("the weight of an expert is missing"));
    assert!(with(&[1, 5, 1, 8, 7, 0, 0, 0, 0, 0]).contains("an expert after the last of 8"));
    let huge = [&good[..], &[0xff; 9], &[1]].concat();
    assert!(error(&huge).contains("a pass of"), "{}", error(&huge));
}

#[test]
fn a_trace_of_version_1_is_read_and_has_no_weights() {
    let pass = Pass {
        n_tokens: 1,
        layers: vec![LayerRecord {
            layer: 1,
            demanded: vec![Demand { expert: 3, n_tokens: 1 }, Demand { expert: 7, n_tokens: 1 }],
            cost: Some(LayerCost { stall: Some(Duration::ZERO), read_bytes: Some(0), ..LayerCost::default() }),
            ..LayerRecord::default()
        }],
        ..Pass::default()
    };
    let old = |mut bytes: Vec<u8>| {
        assert_eq!(bytes[MAGIC.len()], 2);
        bytes[MAGIC.len()] = 1;
        read(&bytes)
    };
    assert_eq!(old(record(std::slice::from_ref(&pass))).unwrap(), (vec![pass.clone()], false));
    let mut weighed = pass.clone();
    weighed.layers[0].weights = vec![0.75, 0.25];
    assert!(old(record(&[weighed])).unwrap_err().to_string().contains("kind 5"));
    let mut uncounted = pass;
    uncounted.layers[0].cost = Some(LayerCost::default());
    assert!(old(record(&[uncounted])).unwrap_err().to_string().contains("kind 6"));
}

#[test]
fn experts_that_are_told_again_without_weights_have_none() {
    let (header, weight) = (record(&[]), 0.5_f32.to_le_bytes());
    let frame = [&[1, 5, 1, 1, 7][..], &weight, &[1, 1, 2, 0, 0], &[4, 0, 0]].concat();
    let (passes, _) = read(&[&header[..], &[frame.len() as u8], &frame].concat()).unwrap();
    assert_eq!((passes[0].layers[0].demanded.len(), passes[0].layers[0].weights.len()), (2, 0));
}

#[test]
fn a_token_of_48_layers_takes_about_two_kilobytes_and_little_time() {
    let shape =
        Shape { layers: vec![LayerShape { n_experts: 128, slot_bytes: 1 << 20 }; 48], n_used: 8, ..Shape::default() };
    let file = tempfile::NamedTempFile::new().unwrap();
    let recorder = TraceRecorder::create(file.path(), &shape).unwrap();
    let header = file.as_file().metadata().unwrap().len();
    let start = Instant::now();
    for token in 0..200 {
        recorder.pass(1);
        for layer in 0..48 {
            recorder.token_layer(layer, (0..8).map(|i| (i * 16 + (token + layer) % 16, 0.125)));
        }
        recorder.end_pass(Outcome::Whole);
    }
    let (bytes, time) = (file.as_file().metadata().unwrap().len() - header, start.elapsed() / 200);
    println!("{} bytes and {time:?} a token", bytes / 200);
    assert!(bytes / 200 < 560 + 48 * 8 * 4);
    // A hundredth of a token at 100 tokens a second; a hundred times what it takes when nobody else runs.
    assert!(time < Duration::from_millis(1));
}

#[test]
#[cfg(target_os = "linux")]
fn a_write_that_failed_ends_the_recording_and_stays_known() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let recorder = TraceRecorder::create(file.path(), &shape()).unwrap();
    let header = std::fs::read(file.path()).unwrap();
    let pass = || {
        recorder.pass(1);
        recorder.end_pass(Outcome::Whole);
    };
    let full = File::options().write(true).open("/dev/full").unwrap();
    let good = std::mem::replace(&mut recorder.lock().file, full);
    pass();
    assert!(recorder.check().is_err());
    assert!(recorder.check().is_ok(), "told once");
    // There is room again, but what is missing would stay missing.
    recorder.lock().file = good;
    pass();
    assert_eq!(std::fs::read(file.path()).unwrap(), header);
    assert!(recorder.finish().is_err());
    assert!(TraceRecorder::create_new(file.path(), &shape()).is_err(), "a file that is there is left alone");
}
