//! Models that are worth fetching: Mixture-of-Experts models of the architectures that run here, and small dense ones to
//! try things out. Sizes are approximate, as the repositories' owners publish them.

/// A model that can be pulled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suggestion {
    /// What `wayinfer pull` takes.
    pub name: &'static str,
    pub what: &'static str,
    /// Billions of parameters: all, and those that one token uses.
    pub parameters: (f32, f32),
    /// GB on the disk, approximately.
    pub disk_gb: f32,
    /// GB of free memory from which it is comfortable, approximately: what every token needs, a context of some thousand
    /// tokens, and room for the experts in use.
    pub memory_gb: f32,
}

/// From the smallest to the largest.
pub const ALL: [Suggestion; 7] = [
    Suggestion {
        name: "Qwen/Qwen3-0.6B-GGUF:Q8_0",
        what: "dense and tiny: to see that all works",
        parameters: (0.6, 0.6),
        disk_gb: 0.6,
        memory_gb: 1.5,
    },
    Suggestion {
        name: "Qwen/Qwen3-4B-GGUF:Q4_K_M",
        what: "dense: good answers where all of it fits in memory",
        parameters: (4.0, 4.0),
        disk_gb: 2.5,
        memory_gb: 4.0,
    },
    Suggestion {
        name: "unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF:Q2_K",
        what: "MoE, 8 of 128 experts: the smallest that is worth it",
        parameters: (30.5, 3.3),
        disk_gb: 11.3,
        memory_gb: 4.0,
    },
    Suggestion {
        name: "unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF:Q4_K_M",
        what: "MoE, 8 of 128 experts: the one to begin with",
        parameters: (30.5, 3.3),
        disk_gb: 18.6,
        memory_gb: 6.0,
    },
    Suggestion {
        name: "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF:Q4_K_M",
        what: "MoE, 8 of 128 experts: for code",
        parameters: (30.5, 3.3),
        disk_gb: 18.6,
        memory_gb: 6.0,
    },
    Suggestion {
        name: "unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF:Q8_0",
        what: "MoE, 8 of 128 experts: next to no loss",
        parameters: (30.5, 3.3),
        disk_gb: 32.5,
        memory_gb: 8.0,
    },
    Suggestion {
        name: "unsloth/Qwen3-235B-A22B-Instruct-2507-GGUF:Q4_K_M",
        what: "MoE, 8 of 128 experts: large, for a fast SSD",
        parameters: (235.0, 22.0),
        disk_gb: 142.0,
        memory_gb: 24.0,
    },
];
