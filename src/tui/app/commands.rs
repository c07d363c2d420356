//! Slash commands: completed while they are typed, carried out when they are sent.

use std::path::Path;
use std::time::Instant;

use crate::sampler::SamplingParams;
use crate::transcript::Record;
use crate::transcript::library::{self, Format};
use crate::worker::{Command, TraceOrder};

use super::super::ExitReason;
use super::super::commands::{self, Deed, Knob, Parsed, SlashCommand, Suggestion};
use super::super::conversation::Kind;
use super::super::keys::InputState;
use super::super::work::at_home;
use super::branches::Done;
use super::sessions::Confirm;
use super::{App, Effect, Work};

impl App {
    /// What the input holds, for keys that depend on it.
    pub fn input_state(&self) -> InputState {
        match self.composer.state() {
            InputState::Typed if self.composer.only_line().is_some_and(commands::is_begun) => InputState::Command,
            state => state,
        }
    }

    /// The lines above the input while a command is typed, and which of them is chosen.
    pub fn suggestions(&self) -> Option<(Vec<Suggestion>, usize)> {
        if self.input_state() != InputState::Command
            || self.dialog.is_some()
            || self.search.is_some()
            || self.conversation.find().is_some()
        {
            return None;
        }
        let text = self.composer.text();
        let mut lines = self.theme_suggestions(&text);
        lines.extend(commands::suggestions(&text));
        let chosen = if self.suggested.0 == text { self.suggested.1.min(lines.len() - 1) } else { 0 };
        Some((lines, chosen))
    }

    pub(super) fn choose_suggestion(&mut self, rows: isize) {
        let Some((lines, chosen)) = self.suggestions() else { return };
        let n = lines.len() as isize;
        self.suggested = (self.composer.text(), (chosen as isize + rows).rem_euclid(n) as usize);
    }

    /// Whoever begins another command chooses anew.
    pub(super) fn forget_old_choice(&mut self) {
        if self.input_state() != InputState::Command {
            self.suggested = Default::default();
        }
    }

    /// Takes the chosen line into the input.
    pub(super) fn complete(&mut self) {
        let fill = self.suggestions().and_then(|(lines, chosen)| lines[chosen].fill.clone());
        if let Some(fill) = fill {
            self.composer.set_text(&fill);
        }
    }

    /// Does what a command says. One that cannot be done stays in the input, and the reason is told.
    pub(super) fn run_command(&mut self, command: &SlashCommand, arguments: &str, now: Instant) -> Vec<Effect> {
        let text = self.composer.take();
        self.do_deed(command, arguments, now).unwrap_or_else(|why| {
            self.composer.set_text(&text);
            self.notify(why, now);
            Vec::new()
        })
    }

    /// A word that is no command: the one that it begins is completed, else it is told what to do.
    pub(super) fn unknown_command(&mut self, name: &str, now: Instant) {
        let before = self.composer.text();
        self.complete();
        if self.composer.text() == before {
            let instead = commands::closest(name).map_or_else(String::new, |name| format!("; did you mean {name}?"));
            self.notify(format!("There is no command {name}{instead} // in front sends it as a message"), now);
        }
    }

    /// What a text that is to be sent means.
    pub(super) fn command_in(&mut self, now: Instant) -> Option<Vec<Effect>> {
        let text = self.composer.text();
        match commands::parse(text.trim_end()) {
            Parsed::Message | Parsed::Escaped(_) => None,
            Parsed::Command(command, arguments) => Some(self.run_command(command, arguments, now)),
            Parsed::Unknown(name) => {
                self.unknown_command(name, now);
                Some(Vec::new())
            }
        }
    }

    fn do_deed(&mut self, command: &SlashCommand, arguments: &str, now: Instant) -> Done {
        if command.arguments.is_empty() && !arguments.is_empty() {
            return Err(format!("{} takes nothing behind it", command.name));
        }
        let nothing = Ok(Vec::new());
        match command.deed {
            Deed::Help => {
                self.help = Some(0);
                nothing
            }
            Deed::Model if arguments.is_empty() => {
                self.check_idle()?;
                Ok(self.open_picker(None))
            }
            Deed::Model => {
                self.check_idle()?;
                Ok(vec![Effect::Work(Work::FindModel(arguments.to_owned()))])
            }
            Deed::Theme => Ok(self.set_theme(arguments, now)),
            Deed::System => Ok(self.set_system(arguments)),
            Deed::Set(knob) => self.set_knob(knob, arguments, now),
            Deed::New => {
                self.check_idle()?;
                Ok(self.begin_anew(None))
            }
            Deed::Save => {
                let text = match &self.transcript {
                    Some(path) => format!("Saved as it is said, in {}", path.display()),
                    None => "It is saved from the first message on".to_owned(),
                };
                self.add_notice(Kind::Note, &text);
                nothing
            }
            Deed::Sessions => {
                self.check_idle()?;
                Ok(self.open_sessions(arguments))
            }
            Deed::Resume if arguments.is_empty() => {
                self.check_idle()?;
                Ok(self.open_sessions(""))
            }
            Deed::Resume => {
                self.check_idle()?;
                Ok(vec![Effect::Open(arguments.to_owned())])
            }
            Deed::Rename if arguments.is_empty() => Err("Write the title behind /rename".into()),
            Deed::Rename => {
                let text = arguments.split_whitespace().collect::<Vec<_>>().join(" ");
                self.notify(format!("This conversation is called: {text}"), now);
                Ok(vec![self.record(Record::Title { text })])
            }
            Deed::Delete => {
                self.check_idle()?;
                let Some(path) = self.transcript.clone() else {
                    return Err("There is nothing to delete: nothing is saved yet".into());
                };
                self.confirm = Some(Confirm { name: self.told.name(), path });
                nothing
            }
            Deed::Export => self.export(arguments),
            Deed::Trace => self.trace(arguments),
            Deed::Copy => self.copy(arguments, now),
            Deed::Find => {
                self.open_find(arguments);
                nothing
            }
            Deed::Raw => {
                self.toggle_raw(now);
                nothing
            }
            Deed::Thinking => {
                self.toggle_thinking(now);
                nothing
            }
            Deed::Retry => self.retry(now),
            Deed::Continue => self.continue_reply(now),
            Deed::Edit => self.edit_turn(number(arguments, 1)?, now),
            Deed::Branch if arguments.is_empty() => self.change_branch(|at, n| Some((at + 1) % n), now),
            Deed::Branch => {
                let wanted = number(arguments, 1)?;
                self.change_branch(|_, _| wanted.checked_sub(1), now)
            }
            Deed::Quit => Ok(self.quit(ExitReason::Quit)),
        }
    }

    fn trace(&mut self, arguments: &str) -> Done {
        self.check_ready()?;
        let (word, file) = arguments.split_once(char::is_whitespace).unwrap_or((arguments, ""));
        let order = match (word, file.trim()) {
            ("", _) => TraceOrder::Tell,
            ("stop", "") => TraceOrder::Stop,
            ("start", "") => {
                TraceOrder::Start(jiff::Zoned::now().strftime("wayinfer-%Y%m%d-%H%M%S.trace").to_string().into())
            }
            ("start", file) => TraceOrder::Start(at_home(file)),
            _ => return Err("/trace takes start, with a file or without, or stop".into()),
        };
        Ok(vec![Effect::Send(Command::Trace(order))])
    }

    fn set_system(&mut self, arguments: &str) -> Vec<Effect> {
        if arguments.is_empty() {
            let text = match &self.system {
                Some(system) => format!("The system message: {system}"),
                None => "There is no system message.".to_owned(),
            };
            self.add_notice(Kind::Note, &text);
            return Vec::new();
        }
        self.system = (arguments != "-").then(|| arguments.to_owned());
        let told = if self.system.is_some() { "The system message is set." } else { "The system message is gone." };
        self.add_notice(Kind::Note, told);
        vec![self.record_settings()]
    }

    /// The settings of the conversation from here on.
    fn record_settings(&mut self) -> Effect {
        let (system, sampling) = (self.system.clone(), self.settings_json());
        self.record(Record::Settings { system, sampling })
    }

    pub(super) fn settings_json(&self) -> serde_json::Value {
        let mut json = self.sampling.json();
        json["max_tokens"] = self.max_tokens.into();
        json
    }

    fn set_knob(&mut self, knob: Knob, arguments: &str, now: Instant) -> Done {
        if arguments.is_empty() {
            let (name, value) = self.knob(knob);
            self.notify(format!("{name} is {value}"), now);
            return Ok(Vec::new());
        }
        let decimal = || {
            let x = arguments.parse::<f32>().ok().filter(|x| x.is_finite());
            x.ok_or_else(|| format!("`{arguments}` is no number"))
        };
        let mut wanted = self.sampling.clone();
        let mut max_tokens = self.max_tokens;
        match knob {
            Knob::Temperature => wanted.temperature = decimal()?,
            Knob::TopP => wanted.top_p = decimal()?,
            Knob::MinP => wanted.min_p = decimal()?,
            Knob::RepeatPenalty => wanted.repeat_penalty = decimal()?,
            Knob::FrequencyPenalty => wanted.frequency_penalty = decimal()?,
            Knob::PresencePenalty => wanted.presence_penalty = decimal()?,
            Knob::TopK => wanted.top_k = number(arguments, 0)?,
            Knob::Seed if arguments == "-" => wanted.seed = None,
            Knob::Seed => {
                let seed = arguments.parse().map_err(|_| format!("`{arguments}` is no whole number, nor -"))?;
                wanted.seed = Some(seed);
            }
            Knob::MaxTokens if arguments == "-" => max_tokens = None,
            Knob::MaxTokens => match number(arguments, 0)? {
                0 => return Err("A reply has at least 1 token".into()),
                n => max_tokens = Some(n),
            },
        }
        if let Some(problem) = wanted.problem() {
            return Err(problem);
        }
        (self.sampling, self.max_tokens) = (wanted, max_tokens);
        let (name, value) = self.knob(knob);
        self.notify(format!("{name} is {value} from the next reply on"), now);
        Ok(vec![self.record_settings()])
    }

    fn knob(&self, knob: Knob) -> (&'static str, String) {
        let SamplingParams { temperature, top_k, top_p, min_p, seed, .. } = self.sampling;
        match knob {
            Knob::Temperature => ("The temperature", temperature.to_string()),
            Knob::TopP => ("Top-p", top_p.to_string()),
            Knob::TopK => ("Top-k", top_k.to_string()),
            Knob::MinP => ("Min-p", min_p.to_string()),
            Knob::RepeatPenalty => ("The repeat penalty", self.sampling.repeat_penalty.to_string()),
            Knob::FrequencyPenalty => ("The frequency penalty", self.sampling.frequency_penalty.to_string()),
            Knob::PresencePenalty => ("The presence penalty", self.sampling.presence_penalty.to_string()),
            Knob::Seed => ("The seed", seed.map_or_else(|| "from the clock".into(), |s| s.to_string())),
            Knob::MaxTokens => {
                ("The most tokens of a reply", self.max_tokens.map_or_else(|| "what fits".into(), |n| n.to_string()))
            }
        }
    }

    fn export(&mut self, arguments: &str) -> Done {
        let (word, rest) = arguments.split_once(char::is_whitespace).unwrap_or((arguments, ""));
        let (asked, file) = match word {
            "md" => (Some(Format::Markdown), rest.trim()),
            "json" => (Some(Format::Json), rest.trim()),
            _ => (None, arguments),
        };
        if self.told.entries.is_empty() {
            return Err("Nothing was said yet".into());
        }
        let by_name =
            if Path::new(file).extension().is_some_and(|e| e == "json") { Format::Json } else { Format::Markdown };
        let format = asked.unwrap_or(by_name);
        let file = if file.is_empty() {
            let stem = self.transcript.as_ref().and_then(|path| path.file_stem()).unwrap_or("conversation".as_ref());
            let ending = if format == Format::Json { "json" } else { "md" };
            format!("{}.{ending}", stem.to_string_lossy())
        } else {
            file.to_owned()
        };
        let text = library::export(&self.told, format);
        Ok(vec![Effect::Work(Work::Write { file, text })])
    }
}

/// A whole number, or `d` where nothing is written.
fn number(text: &str, d: usize) -> Result<usize, String> {
    if text.is_empty() {
        return Ok(d);
    }
    text.parse().map_err(|_| format!("`{text}` is no whole number"))
}
