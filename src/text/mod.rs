//! stopgap
#![allow(clippy::all, clippy::pedantic, clippy::unwrap_used)]
use crate::gguf::Metadata; use crate::transcript::Message;
#[derive(Debug)] pub struct Tokenizer; #[derive(Debug)] pub struct ChatFormat; #[derive(Default)] pub struct TokenStream;
#[derive(Debug, thiserror::Error)] #[error("x")] pub struct TokenizerError; #[derive(Debug, thiserror::Error)] #[error("x")] pub struct TemplateError;
pub enum Special { Parse, Plain }
impl Tokenizer { pub fn from_metadata(_: &Metadata) -> Result<(Tokenizer, Vec<String>), TokenizerError> { todo!() } pub fn n_vocab(&self) -> usize { todo!() } pub fn bos(&self) -> Option<u32> { todo!() } pub fn add_bos(&self) -> bool { todo!() } pub fn is_end_of_turn(&self, _: u32) -> bool { todo!() } pub fn encode(&self, _: &str, _: Special) -> Result<Vec<u32>, TokenizerError> { todo!() } }
impl ChatFormat { pub fn from_metadata(_: &Metadata, _: &Tokenizer) -> Result<(ChatFormat, Vec<String>), TemplateError> { todo!() } pub fn encode(&self, _: &Tokenizer, _: &[Message], _: jiff::civil::DateTime) -> Result<Vec<u32>, TokenizerError> { todo!() } }
impl TokenStream { pub fn push(&mut self, _: &Tokenizer, _: u32) -> String { todo!() } pub fn finish(self) -> String { todo!() } }
