//! Text on its way into the model and out of it: the tokenizer and the chat template of a GGUF file.

pub mod template;
pub mod tokenizer;
