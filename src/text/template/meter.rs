//! What a template's operators do while it is metered.
//!
//! The engine's fuel pays for instructions and for the bytes that they make, but not for all that a value can hide: a list
//! that holds another twice, a hundred times over, is small and prints without end, and two long strings compare at the
//! price of two short ones. So no value may stand for more than a bounded amount of data, and whatever walks values pays for
//! the walk first. [`super::engine`] puts these operators into the compiled template.

use std::sync::Arc;

use minijinja::formatting::FormatStyle;
use minijinja::value::{DynObject, Kwargs, Object, ObjectRepr, Tuple, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value, functions};

use super::{filters, method, pay};

/// The price of a value in bytes, besides its text.
const NODE_BYTES: usize = 32;

/// The price of looking at a value without its text.
const LOOK_BYTES: usize = 8;

/// Python's own limit is near 1000; templates nest a few levels.
const MAX_DEPTH: usize = 64;

/// An operator of a metered template. As a global it has a name that no template can write.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operator {
    /// Hands a new value on, if it is not too much.
    Checked,
    /// As `Checked`, for a map, whose keys are hashed.
    CheckedMap,
    /// Hands on a value that may be kept in a namespace.
    Storable,
    /// Pays for walking the whole value.
    Walked,
    /// Pays for beginning to iterate over the value.
    Iterated,
    /// A filter or a test: its arguments, then its name.
    Filter,
    Test,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Remainder,
    Concat,
    Item,
    Slice,
}

/// Every operator with its name.
pub(super) const OPERATORS: &[(&str, Operator)] = &[
    ("=checked", Operator::Checked),
    ("=map", Operator::CheckedMap),
    ("=storable", Operator::Storable),
    ("=walked", Operator::Walked),
    ("=iterated", Operator::Iterated),
    ("|", Operator::Filter),
    ("?", Operator::Test),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<", Operator::Less),
    ("<=", Operator::LessOrEqual),
    (">", Operator::Greater),
    (">=", Operator::GreaterOrEqual),
    ("in", Operator::In),
    ("%", Operator::Remainder),
    ("~", Operator::Concat),
    ("[]", Operator::Item),
    ("[:]", Operator::Slice),
];

/// Filters that do not look into the items of a list, and pay by themselves for those they touch.
const SHALLOW_FILTERS: &[&str] = &[
    "attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "reverse", "slice", "tojson",
];

/// The most data, in bytes, that one value may stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit(usize);

impl Limit {
    /// Room for a conversation with this much text several times over.
    pub(super) fn for_text(bytes: usize) -> Limit {
        const BASE: usize = 16 << 20;
        Limit(bytes.saturating_mul(4).saturating_add(BASE))
    }
}

#[derive(Debug)]
struct Global {
    operator: Operator,
    limit: Limit,
}

/// The operator as a global function.
pub(super) fn global(operator: Operator, limit: Limit) -> Value {
    Value::from_object(Global { operator, limit })
}

impl Object for Global {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        match self.operator {
            Operator::Checked => checked(state, one(args)?, self.limit),
            Operator::CheckedMap => checked_map(state, one(args)?, self.limit),
            Operator::Storable => storable(one(args)?),
            Operator::Walked => walk(state, one(args)?, self.limit).map(|_| Value::UNDEFINED),
            Operator::Iterated => iterated(state, one(args)?),
            Operator::Filter => filter(state, args, self.limit),
            Operator::Test => test(state, args, self.limit),
            Operator::Equal => equal(state, args, self.limit).map(Value::from),
            Operator::NotEqual => equal(state, args, self.limit).map(|equal| Value::from(!equal)),
            Operator::Less => order(state, args, self.limit).map(|order| Value::from(order.is_lt())),
            Operator::LessOrEqual => order(state, args, self.limit).map(|order| Value::from(order.is_le())),
            Operator::Greater => order(state, args, self.limit).map(|order| Value::from(order.is_gt())),
            Operator::GreaterOrEqual => order(state, args, self.limit).map(|order| Value::from(order.is_ge())),
            Operator::In => contains(state, args, self.limit).map(Value::from),
            Operator::Remainder => remainder(state, args, self.limit),
            Operator::Concat => concat(state, args, self.limit),
            Operator::Item => item(state, args, self.limit),
            Operator::Slice => slice(state, args),
        }
    }
}

fn one(args: &[Value]) -> Result<&Value, Error> {
    args.first().ok_or_else(|| Error::from(ErrorKind::MissingArgument))
}

fn two(args: &[Value]) -> Result<(&Value, &Value), Error> {
    match args {
        [a, b] => Ok((a, b)),
        _ => Err(Error::from(ErrorKind::MissingArgument)),
    }
}

fn invalid(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// What a value stands for when it is walked to its ends.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

/// The size of a value, or an error where it is over the limit.
fn measure(value: &Value, limit: Limit) -> Result<Size, Error> {
    let mut size = Size::default();
    size.add(value, 0, limit)?;
    Ok(size)
}

impl Size {
    fn add(&mut self, value: &Value, depth: usize, limit: Limit) -> Result<(), Error> {
        self.nodes += 1;
        self.bytes += NODE_BYTES + value.as_str().map_or(0, str::len);
        if self.bytes > limit.0 {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        let Some(object) = value.as_object() else { return Ok(()) };
        if depth == MAX_DEPTH {
            return Err(invalid("a value is nested too deeply"));
        }
        match object.repr() {
            ObjectRepr::Map => {
                // A namespace can change later, even so that it holds itself.
                if depth > 0 && is_namespace(object) {
                    return Err(invalid("a namespace cannot be put into another value"));
                }
                for (key, item) in object.try_iter_pairs().into_iter().flatten() {
                    self.add(&key, depth + 1, limit)?;
                    self.add(&item, depth + 1, limit)?;
                }
            }
            // What has no length may only be iterated over once, and pays as it goes.
            ObjectRepr::Seq | ObjectRepr::Iterable if object.enumerator_len().is_some() => {
                for item in object.try_iter().into_iter().flatten() {
                    self.add(&item, depth + 1, limit)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn is_namespace(object: &DynObject) -> bool {
    object.type_name().ends_with("::Namespace")
}

/// Pays for walking a value to its ends. For the price of its text a string is walked at once.
pub(super) fn walk(state: &State, value: &Value, limit: Limit) -> Result<usize, Error> {
    let bytes = match value.as_str() {
        Some(text) => text.len(),
        None if value.as_object().is_none() => 0,
        None => measure(value, limit)?.bytes,
    };
    if bytes > 0 {
        pay(state, bytes)?;
    }
    Ok(bytes)
}

fn checked(state: &State, value: &Value, limit: Limit) -> Result<Value, Error> {
    if value.as_object().is_some() {
        // Text is only counted here, which costs nothing.
        pay(state, measure(value, limit)?.nodes * LOOK_BYTES)?;
    }
    Ok(value.clone())
}

fn checked_map(state: &State, value: &Value, limit: Limit) -> Result<Value, Error> {
    for key in value.try_iter()? {
        walk(state, &key, limit)?;
    }
    checked(state, value, limit)
}

fn storable(value: &Value) -> Result<Value, Error> {
    if value.as_object().is_some_and(is_namespace) {
        return Err(invalid("a namespace cannot be put into another value"));
    }
    Ok(value.clone())
}

fn iterated(state: &State, value: &Value) -> Result<Value, Error> {
    pay(state, value.as_str().map_or_else(|| value.len().unwrap_or(0) * 2, str::len))?;
    Ok(Value::UNDEFINED)
}

/// Pays for the arguments, and for using the further ones once for every item of the first.
fn pay_for_arguments(state: &State, args: &[Value], limit: Limit) -> Result<(), Error> {
    let Some((first, rest)) = args.split_first() else { return Ok(()) };
    let is_container = first.as_object().is_some();
    let first_bytes = walk(state, first, limit)?;
    let mut rest_bytes = 0;
    for arg in rest {
        rest_bytes += walk(state, arg, limit)?;
    }
    if is_container {
        // Sorting and grouping compare items several times.
        let n_items = first.len().unwrap_or(0);
        pay(state, first_bytes.saturating_mul(4).saturating_add(n_items.saturating_mul(rest_bytes)))?;
    }
    Ok(())
}

fn filter(state: &mut State, args: &[Value], limit: Limit) -> Result<Value, Error> {
    let (name, args) = args.split_last().ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    let name = name.as_str().unwrap_or_default();
    let is_shallow = SHALLOW_FILTERS.contains(&name) && one(args)?.as_object().is_some();
    if !is_shallow {
        pay_for_arguments(state, args, limit)?;
    }
    let result = state.apply_filter(name, args).map_err(|e| match e.kind() {
        ErrorKind::UnknownFilter if e.detail().is_none() => Error::new(e.kind(), format!("`{name}`")),
        _ => e,
    })?;
    checked(state, &result, limit)
}

fn test(state: &mut State, args: &[Value], limit: Limit) -> Result<Value, Error> {
    let (name, args) = args.split_last().ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    let name = name.as_str().unwrap_or_default();
    if args.len() > 1 {
        pay_for_arguments(state, args, limit)?;
    }
    let result = state.perform_test(name, args).map_err(|e| match e.kind() {
        ErrorKind::UnknownTest if e.detail().is_none() => Error::new(e.kind(), format!("`{name}`")),
        _ => e,
    })?;
    Ok(Value::from(result))
}

fn equal(state: &State, args: &[Value], limit: Limit) -> Result<bool, Error> {
    let (a, b) = two(args)?;
    if a.kind() == b.kind() {
        walk(state, a, limit)?;
    }
    Ok(a == b)
}

fn order(state: &State, args: &[Value], limit: Limit) -> Result<std::cmp::Ordering, Error> {
    let (a, b) = two(args)?;
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    let is_list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    let is_text = |value: &Value| value.kind() == ValueKind::String;
    if ![is_number, is_list, is_text].iter().any(|is_kind| is_kind(a) && is_kind(b)) {
        return Err(invalid(format!("a {} and a {} have no order", a.kind(), b.kind())));
    }
    walk(state, a, limit)?;
    Ok(a.cmp(b))
}

fn contains(state: &State, args: &[Value], limit: Limit) -> Result<bool, Error> {
    let (value, container) = two(args)?;
    if container.is_undefined() {
        return Ok(false);
    }
    if let Some(text) = container.as_str() {
        let part = value.as_str().ok_or_else(|| invalid(format!("a {} cannot be in a string", value.kind())))?;
        pay(state, text.len())?;
        return Ok(text.contains(part));
    }
    let object = container.as_object().ok_or_else(|| invalid(format!("nothing can be in a {}", container.kind())))?;
    if object.repr() == ObjectRepr::Map {
        walk(state, value, limit)?;
        return Ok(object.get_value(value).is_some());
    }
    walk(state, container, limit)?;
    for item in container.try_iter()? {
        if item == *value {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `%`: of numbers the remainder, with the sign of the divisor; of a string the text with its fields filled in.
fn remainder(state: &State, args: &[Value], limit: Limit) -> Result<Value, Error> {
    let (a, b) = two(args)?;
    if let Some(text) = a.as_str() {
        walk(state, b, limit)?;
        let fields: Vec<Value> = if b.is_tuple() { b.try_iter()?.collect() } else { vec![b.clone()] };
        return method::format_text(state, FormatStyle::Printf, text, &fields);
    }
    let refuse = || invalid(format!("no remainder of a {} and a {}", a.kind(), b.kind()));
    if let (Ok(a), Ok(b)) = (i64::try_from(a.clone()), i64::try_from(b.clone())) {
        let remainder = a.checked_rem(b).ok_or_else(refuse)?;
        return Ok(Value::from(if remainder != 0 && (remainder < 0) != (b < 0) { remainder + b } else { remainder }));
    }
    match (f64::try_from(a.clone()), f64::try_from(b.clone())) {
        (Ok(a), Ok(b)) if b != 0.0 => Ok(Value::from(a - b * (a / b).floor())),
        _ => Err(refuse()),
    }
}

fn concat(state: &State, args: &[Value], limit: Limit) -> Result<Value, Error> {
    let (a, b) = two(args)?;
    walk(state, a, limit)?;
    walk(state, b, limit)?;
    let mut text = filters::text(a).into_owned();
    text.push_str(&filters::text(b));
    Ok(Value::from(text))
}

fn item(state: &State, args: &[Value], limit: Limit) -> Result<Value, Error> {
    let (container, key) = two(args)?;
    if let Some(text) = container.as_str() {
        let Some(index) = key.as_i64() else { return Ok(Value::UNDEFINED) };
        pay(state, text.len())?;
        let distance = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
        let c = if index < 0 { text.chars().rev().nth(distance - 1) } else { text.chars().nth(distance) };
        return Ok(c.map_or(Value::UNDEFINED, Value::from));
    }
    walk(state, key, limit)?;
    if container.kind() == ValueKind::Iterable {
        pay(state, container.len().unwrap_or(0) * LOOK_BYTES)?;
    }
    container.get_item(key)
}

/// `value[start:stop:step]` as Python has it.
fn slice(state: &State, args: &[Value]) -> Result<Value, Error> {
    let (value, start, stop, step): (&Value, Option<i64>, Option<i64>, Option<i64>) = from_args(args)?;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(invalid("a slice cannot have a step of 0"));
    }
    if let Some(text) = value.as_str() {
        pay(state, text.len().saturating_mul(4))?;
        let chars: Vec<char> = text.chars().collect();
        return Ok(Value::from(indexes(start, stop, step, chars.len()).map(|i| chars[i]).collect::<String>()));
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable | ValueKind::None | ValueKind::Undefined) {
        return Err(invalid(format!("a {} cannot be sliced", value.kind())));
    }
    pay(state, value.len().unwrap_or(0).saturating_mul(LOOK_BYTES))?;
    let items: Vec<Value> = value.try_iter()?.collect();
    let part: Vec<Value> = indexes(start, stop, step, items.len()).map(|i| items[i].clone()).collect();
    Ok(if value.is_tuple() { Value::from(Tuple::from(part)) } else { Value::from(part) })
}

/// The indexes that a slice takes of `len` items.
fn indexes(start: Option<i64>, stop: Option<i64>, step: i64, len: usize) -> impl Iterator<Item = usize> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    // Backwards the end lies before the first item.
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |at: i64| if at < 0 { at.saturating_add(len) } else { at }.clamp(low, high);
    let start = start.map_or(if step > 0 { low } else { high }, clamp);
    let stop = stop.map_or(if step > 0 { high } else { low }, clamp);
    std::iter::successors(Some(start), move |at| at.checked_add(step))
        .take_while(move |&at| if step > 0 { at < stop } else { at > stop })
        .map(|at| at as usize)
}

/// `dict` and `namespace` copy a map: they pay for it first.
pub(super) fn dict(state: &State, map: Option<Value>, pairs: Kwargs) -> Result<Value, Error> {
    pay_for_copy(state, map.as_ref(), pairs.args().count())?;
    functions::dict(map, pairs)
}

pub(super) fn namespace(state: &State, defaults: Option<ValueOrKwargs>) -> Result<Value, Error> {
    if let Some(defaults) = &defaults {
        pay_for_copy(state, Some(&defaults.clone().into_value()), 0)?;
    }
    functions::namespace(defaults)
}

fn pay_for_copy(state: &State, map: Option<&Value>, n_pairs: usize) -> Result<(), Error> {
    let n_items = map.and_then(Value::len).unwrap_or(0) + n_pairs;
    pay(state, n_items * NODE_BYTES * 2)
}
