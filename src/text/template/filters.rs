//! Filters, tests and printing where Jinja2 over Python differs from the engine.

use minijinja::value::{ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, Output, State, Value, escape_formatter};

use super::{json, method};

pub(super) fn add_to(environment: &mut Environment) {
    environment.set_formatter(print);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("string", string);
    environment.add_filter("trim", trim);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
}

/// `{{ value }}`: floats as Python's `repr`, the rest as the engine has it.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match as_float(value) {
        Some(x) => out.write_str(&json::python_float(x)).map_err(Error::from),
        None => escape_formatter(out, state, value),
    }
}

fn string(value: &Value) -> Value {
    match as_float(value) {
        Some(x) => Value::from(json::python_float(x)),
        None if value.kind() == ValueKind::String => value.clone(),
        None => Value::from(value.to_string()),
    }
}

fn as_float(value: &Value) -> Option<f64> {
    (value.kind() == ValueKind::Number && !value.is_integer()).then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// Strips what Python calls white space, or the characters given.
fn trim(state: &State, value: &Value, chars: Option<ValueOrKwargs>) -> Result<Value, Error> {
    let text = value.to_string();
    super::pay(state, text.len())?;
    let chars = chars.map(ValueOrKwargs::into_value);
    Ok(Value::from(method::strip(&text, chars.as_ref().and_then(Value::as_str))))
}

/// In Python a string, a map and a slice of a list have a length and items too.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined()
        || matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map | ValueKind::Bytes
        )
}

/// The engine iterates over nothing where the value is none; Python refuses.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}
