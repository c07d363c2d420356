//! `wayinfer licenses`: WayInfer's own license, and those of the crates it is made with.

use super::output;

const OWN: &str = include_str!("../../LICENSE");
/// Written by `tests/licenses.rs`.
const OTHERS: &str = include_str!("../../assets/THIRD-PARTY.txt");

pub(super) fn licenses() -> anyhow::Result<()> {
    Ok(output::print(&format!("{OWN}\n{OTHERS}"))?)
}
