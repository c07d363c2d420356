//! Text on its way into the model and out of it: the tokenizer, the chat template, and the two together, of a GGUF file.

pub mod chat;
pub mod template;
pub mod thinking;
pub mod tokenizer;
