//! A conversation in words: messages in, the text of a reply out, piece by piece.

use std::ops::ControlFlow;

use jiff::civil::DateTime;

use super::{PromptStats, ReplyRequest, ReplyStats, Session, SessionError, StopReason};
use crate::model::Control;
use crate::sampler::{Sampler, SamplingParams};
use crate::text::chat::{self, ChatFormat};
use crate::text::thinking;
use crate::text::tokenizer::{ControlText, TokenStream, Tokenizer};
use crate::transcript::{Message, Role};

/// A session with the words for it: the model's tokenizer and chat template.
#[derive(Debug)]
pub struct Chat<'m> {
    pub session: Session<'m>,
    pub tokenizer: &'m Tokenizer,
    pub format: &'m ChatFormat,
}

/// Who is told how a reply comes along.
pub struct ReplySink<'r> {
    pub on_prompt: &'r mut dyn FnMut(PromptStats),
    pub on_text: &'r mut dyn FnMut(&str),
}

/// Why a conversation got no reply.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    #[error(transparent)]
    Format(#[from] chat::ChatError),
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl Chat<'_> {
    /// The conversation as the model reads it, ready for the reply's first token. Replies that this session gave are in
    /// their own tokens.
    pub fn prompt(&self, messages: &[Message], now: DateTime) -> Result<Vec<u32>, ChatError> {
        let prompt = self.format.encode(self.tokenizer, messages, now)?;
        let bytes_of = |token, bytes: &mut Vec<u8>| self.tokenizer.append_bytes(token, ControlText::Show, bytes);
        Ok(self.session.respelled(&prompt, bytes_of))
    }

    /// Whether a prompt ends with the tag that opens a model's thinking, so that the reply begins within it.
    pub fn begins_with_thinking(&self, prompt: &[u32]) -> bool {
        let tail = &prompt[prompt.len().saturating_sub(thinking::LONGEST + 4)..];
        thinking::is_left_open(&self.tokenizer.decode(tail, ControlText::Show))
    }

    /// How many of the oldest turns must go so that the prompt fits with room for a reply; `None`: the last message alone is
    /// too long. A turn is a message of the person and what was answered to it; the system message stays.
    pub fn droppable_turns(&self, messages: &[Message], now: DateTime) -> Result<Option<usize>, ChatError> {
        let turns = messages.iter().filter(|m| m.role == Role::User).count();
        for n in 1..turns {
            if self.prompt(&without_oldest_turns(messages, n), now)?.len() < self.session.capacity() {
                return Ok(Some(n));
            }
        }
        Ok(None)
    }

    /// Streams the reply to an already tokenized prompt as text.
    pub fn reply(
        &mut self,
        prompt: &[u32],
        sampling: &SamplingParams,
        max_tokens: Option<usize>,
        control: Control<'_>,
        sink: ReplySink<'_>,
    ) -> Result<(StopReason, ReplyStats), ChatError> {
        let mut stream = TokenStream::new(ControlText::Hide);
        let mut sampler = Sampler::new(sampling.clone());
        let tokenizer = self.tokenizer;
        let mut stops = StopTexts::new(self.format.stop_texts());
        let ReplySink { on_prompt, on_text } = sink;
        let request = ReplyRequest {
            prompt,
            max_tokens,
            is_end: &|token| tokenizer.is_end_of_turn(token),
            on_prompt,
            on_token: &mut |token| {
                let mut text = String::new();
                stream.push(tokenizer, token, &mut text);
                let (said, found) = stops.push(&text);
                if !said.is_empty() {
                    on_text(&said);
                }
                if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        };
        let outcome = self.session.reply(request, &mut sampler, control)?;
        let mut rest = String::new();
        stream.finish(&mut rest);
        let rest = stops.finish(&rest);
        if !rest.is_empty() {
            on_text(&rest);
        }
        Ok(outcome)
    }
}

/// Holds text back while it may be the beginning of a text that ends the reply.
#[derive(Debug)]
struct StopTexts<'f> {
    texts: &'f [&'f str],
    held: String,
    found: bool,
}

impl<'f> StopTexts<'f> {
    fn new(texts: &'f [&'f str]) -> StopTexts<'f> {
        StopTexts { texts, held: String::new(), found: false }
    }

    /// What can be said now that `text` has come, and whether the end has.
    fn push(&mut self, text: &str) -> (String, bool) {
        if self.found {
            return (String::new(), true);
        }
        self.held.push_str(text);
        if let Some(end) = self.texts.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.found = true;
            self.held.truncate(end);
            return (std::mem::take(&mut self.held), true);
        }
        let begins_a_stop = |tail: &str| self.texts.iter().any(|stop| stop.starts_with(tail));
        let hold = self.held.char_indices().map(|(at, _)| at).find(|&at| begins_a_stop(&self.held[at..]));
        let rest = self.held.split_off(hold.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The last text of the reply, and what was held back.
    fn finish(&mut self, text: &str) -> String {
        let (said, _) = self.push(text);
        said + &std::mem::take(&mut self.held)
    }
}

/// The messages without the `n` oldest turns; system messages stay.
fn without_oldest_turns(messages: &[Message], n: usize) -> Vec<Message> {
    let mut turn = 0;
    let mut kept = Vec::new();
    for message in messages {
        turn += usize::from(message.role == Role::User);
        if message.role == Role::System || turn > n {
            kept.push(message.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_text_ends_the_reply_wherever_tokens_cut_it() {
        let said = |pieces: &[&str]| {
            let mut stops = StopTexts::new(&["\nUser:", "###"]);
            let mut all = String::new();
            let found = pieces.iter().any(|piece| {
                let (text, found) = stops.push(piece);
                all += &text;
                found
            });
            (all + &stops.finish(""), found)
        };
        assert_eq!(said(&["hello\nUs", "er", ": again"]), ("hello".into(), true));
        assert_eq!(said(&["a #", "# b", "\nUse", " it"]), ("a ## b\nUse it".into(), false));
        assert_eq!(said(&["x\n", "\nUser:"]), ("x\n".into(), true));
        assert_eq!(said(&["ends with #"]), ("ends with #".into(), false));
    }

    #[test]
    fn dropping_turns_keeps_the_system_message_and_the_newest() {
        let message = |role, content: &str| Message { role, content: content.into() };
        let all = [
            message(Role::System, "be kind"),
            message(Role::User, "1"),
            message(Role::Assistant, "one"),
            message(Role::User, "2"),
            message(Role::Assistant, "two"),
            message(Role::User, "3"),
        ];
        let contents = |n| without_oldest_turns(&all, n).iter().map(|m| m.content.clone()).collect::<Vec<_>>();
        assert_eq!(contents(1), ["be kind", "2", "two", "3"]);
        assert_eq!(contents(2), ["be kind", "3"]);
    }
}
