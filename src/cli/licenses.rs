//! `wayinfer licenses`: WayInfer's own license, those of the crates it is made with, and of the syntaxes that code is coloured by.

use super::output;

const OWN: &str = include_str!("../../LICENSE");
/// Written by `tests/licenses.rs`.
const OTHERS: &str = include_str!("../../assets/THIRD-PARTY.txt");

pub(super) fn licenses() -> anyhow::Result<()> {
    let mut text = format!("{OWN}\n{OTHERS}\n{}\n\nThe syntaxes that code is coloured by:\n", "=".repeat(80));
    for syntax in two_face::acknowledgement::listing().for_syntaxes() {
        text.push('\n');
        syntax.write_md(&mut text);
    }
    Ok(output::print(&text)?)
}
