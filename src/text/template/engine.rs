//! Runs a template in minijinja: compiles it, puts the meter's operators into what was compiled, and evaluates that.
//!
//! minijinja offers no place to check values as they are made, so this uses its machinery, which may change with any
//! release of it; `Cargo.toml` holds it to one.

use std::sync::Arc;
use std::{fmt, thread};

use minijinja::machinery::{CompiledTemplate, Instruction, Instructions, TemplateConfig, eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};

use super::meter::{self, Limit};
use super::{GenerationPrompt, RenderOptions, TemplateError, filters, method};

/// The name under which errors cite a template's lines.
const NAME: &str = "chat template";

/// The parser, the compiler and the dropping of a syntax tree recurse; a thread's usual 2 MiB are not enough for what
/// [`super::source`] lets through. Only what is used of it becomes memory.
const STACK_BYTES: usize = 32 << 20;

/// The cause of an error that `raise_exception` makes, so that it can be told from others.
#[derive(Debug)]
struct Raised(String);

/// Whether the template compiles.
pub(super) fn check(source: &str) -> Result<(), TemplateError> {
    on_large_stack(|| compile(source).map(|_| ()))
}

pub(super) fn render(source: &str, options: &RenderOptions, fuel: u64, limit: Limit) -> Result<String, TemplateError> {
    on_large_stack(|| {
        let template = compile(source)?;
        let instructions = metered(&template.instructions);
        let blocks = template.blocks.iter().map(|(name, block)| (*name, metered(block))).collect();
        let environment = environment(fuel, limit);
        let mut text = String::new();
        let mut output = make_string_output(&mut text);
        eval(&environment, &instructions, context(options), &blocks, &mut output, AutoEscape::None)
            .map_err(|e| failure(&e))?;
        Ok(text)
    })
}

fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T, TemplateError> + Send) -> Result<T, TemplateError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("template".to_owned()).stack_size(STACK_BYTES);
        let result = thread.spawn_scoped(scope, work)?.join();
        result.unwrap_or(Err(TemplateError::BrokeDown))
    })
}

fn compile(source: &str) -> Result<CompiledTemplate<'_>, TemplateError> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let config = TemplateConfig {
        syntax_config: syntax.map_err(|e| TemplateError::Syntax(e.to_string()))?,
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    CompiledTemplate::new(NAME, source, &config).map_err(|e| TemplateError::Syntax(e.to_string()))
}

/// The instructions with the meter's operators among them or in their places.
fn metered<'source>(plain: &Instructions<'source>) -> Instructions<'source> {
    let mut out = Instructions::new(plain.name(), plain.source());
    let mut len = 0;
    // Where each plain instruction, and the end, has come to lie.
    let mut moved_to = Vec::new();
    for index in 0.. {
        moved_to.push(len);
        let Some(instruction) = plain.get(index) else { break };
        let line = plain.get_line(index).and_then(|line| u16::try_from(line).ok()).unwrap_or(0);
        meter_instruction(instruction.clone(), &mut |instruction| {
            out.add_with_line(instruction, line);
            len += 1;
        });
    }
    for index in 0..len {
        use Instruction as I;
        if let Some(
            I::Iterate(target)
            | I::Jump(target)
            | I::JumpIfFalse(target)
            | I::JumpIfFalseOrPop(target)
            | I::JumpIfTrueOrPop(target)
            | I::BuildMacro(_, target, _),
        ) = out.get_mut(index)
        {
            *target = moved_to[*target as usize];
        }
    }
    out
}

/// What stands for one instruction: itself, and before or after it what pays for it; or an operator of the meter's own.
fn meter_instruction<'source>(plain: Instruction<'source>, emit: &mut impl FnMut(Instruction<'source>)) {
    use Instruction as I;
    match plain {
        I::Eq => emit(I::CallFunction("==", Some(2))),
        I::Ne => emit(I::CallFunction("!=", Some(2))),
        I::Lt => emit(I::CallFunction("<", Some(2))),
        I::Lte => emit(I::CallFunction("<=", Some(2))),
        I::Gt => emit(I::CallFunction(">", Some(2))),
        I::Gte => emit(I::CallFunction(">=", Some(2))),
        I::In => emit(I::CallFunction("in", Some(2))),
        I::Rem => emit(I::CallFunction("%", Some(2))),
        I::StringConcat => emit(I::CallFunction("~", Some(2))),
        I::GetItem => emit(I::CallFunction("[]", Some(2))),
        I::Slice => emit(I::CallFunction("[:]", Some(4))),
        I::ApplyFilter(name, n_args, _) => call_with_name("|", name, n_args, emit),
        I::PerformTest(name, n_args, _) => call_with_name("?", name, n_args, emit),
        I::BuildMap(_) => {
            emit(plain);
            emit(I::CallFunction("=map", Some(1)));
        }
        // Both operands of a chained comparison stay in use for the rest of the chain; the right one is on top and pays.
        // So does the argument of `loop.changed`, which is compared with that of the iteration before.
        I::CompareAndPreserve(_) | I::CallMethod("changed", Some(2)) => {
            pay_for_top("=walked", emit);
            emit(plain);
        }
        // Of several arguments only one could pay. No template is known to use this.
        I::CallMethod("changed", n_args) => emit(I::CallMethod("changed for several values", n_args)),
        I::BuildList(_)
        | I::BuildTuple(_)
        | I::Add
        | I::Mul
        | I::CallFunction(..)
        | I::CallObject(_)
        | I::CallMethod(..) => {
            emit(plain);
            emit(I::CallFunction("=checked", Some(1)));
        }
        I::PushLoop(_) => {
            pay_for_top("=iterated", emit);
            emit(plain);
        }
        // The value lies under the namespace.
        I::SetAttr(_) => {
            emit(I::Swap);
            emit(I::CallFunction("=storable", Some(1)));
            emit(I::Swap);
            emit(plain);
        }
        other => emit(other),
    }
}

fn pay_for_top<'source>(operator: &'static str, emit: &mut impl FnMut(Instruction<'source>)) {
    emit(Instruction::DupTop);
    emit(Instruction::CallFunction(operator, Some(1)));
    emit(Instruction::DiscardTop);
}

/// A call of an operator with a name as its last argument.
fn call_with_name<'source>(
    operator: &'static str,
    name: &'source str,
    n_args: Option<u16>,
    emit: &mut impl FnMut(Instruction<'source>),
) {
    emit(Instruction::LoadConst(Value::from(name)));
    if let Some(n_args) = n_args {
        emit(Instruction::CallFunction(operator, n_args.checked_add(1)));
    } else {
        // The number of arguments lies on top of them.
        emit(Instruction::Swap);
        emit(Instruction::LoadConst(Value::from(1)));
        emit(Instruction::Add);
        emit(Instruction::CallFunction(operator, None));
    }
}

/// The environment of transformers' `apply_chat_template`.
fn environment(fuel: u64, limit: Limit) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(fuel));
    environment
        .set_unknown_method_callback(move |state, value, method, args| method::call(state, value, method, args, limit));
    // Jinja2 has no such function; it would show the engine's inside.
    environment.remove_global("debug");
    environment.add_function("dict", meter::dict);
    environment.add_function("namespace", meter::namespace);
    environment.add_function("raise_exception", move |state: &State, message: &Value| -> Result<Value, Error> {
        meter::walk(state, message, limit)?;
        let message = filters::text(message).into_owned();
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    filters::add_to(&mut environment, limit);
    for &(name, operator) in meter::OPERATORS {
        environment.add_global(name, meter::global(operator, limit));
    }
    environment
}

fn context(options: &RenderOptions) -> Value {
    let now = options.now;
    let strftime_now = Value::from_function(move |format: &str| -> Result<String, Error> {
        if format.len() > 256 {
            return Err(Error::new(ErrorKind::InvalidOperation, "the format of strftime_now is too long"));
        }
        jiff::fmt::strtime::format(format, now)
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
    });
    let fixed = [
        ("messages", to_value(options.messages)),
        ("add_generation_prompt", Value::from(options.generation_prompt == GenerationPrompt::Add)),
        ("bos_token", Value::from(options.bos_token)),
        ("eos_token", Value::from(options.eos_token)),
        ("tools", options.tools.map_or(Value::from(()), to_value)),
        ("documents", Value::from(())),
        ("strftime_now", strftime_now),
    ];
    let extra = options.extra.iter().map(|(name, value)| (name.as_str(), to_value(value)));
    Value::from_pairs(fixed.into_iter().chain(extra))
}

/// A JSON value for the engine, maps in their order.
fn to_value(value: &serde_json::Value) -> Value {
    Value::from(Serde(value))
}

fn failure(error: &Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(Raised(message)) = e.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        if e.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return TemplateError::TooCostly;
        }
        cause = e.source();
    }
    TemplateError::Failed(error.to_string())
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}
