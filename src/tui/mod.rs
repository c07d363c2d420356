//! tui
pub mod composer;
pub mod conversation;
pub mod keys;
pub mod reader;
pub mod sanitize;
pub mod signals;
pub mod terminal;
pub mod theme;
pub mod units;
pub mod wrap;
