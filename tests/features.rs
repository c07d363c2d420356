//! `assets/FEATURES.md`: every item has its proof, every proof is a test that exists, and nothing that is asked for is left
//! out.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says why it skips")]

mod common;

use std::fs;
use std::path::Path;

const NOT_YET: &str = "not yet";

/// The rows of the tables: every item with its proof.
fn rows() -> Vec<(String, String)> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/FEATURES.md")).unwrap();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect::<Vec<_>>();
    let lines = page.lines().filter(|line| line.starts_with("| ")).map(cells);
    let rows = lines.filter(|cells| cells.last().is_some_and(|proof| proof != "proof"));
    rows.map(|mut cells| (cells.len() >= 2, cells.pop().unwrap(), cells.pop().unwrap_or_default()))
        .map(|(is_row, proof, item)| {
            assert!(is_row, "{proof} stands alone");
            (item, proof)
        })
        .collect()
}

#[test]
fn every_feature_names_tests_that_exist_or_says_that_it_is_not_there_yet() {
    let rows = rows();
    assert!(rows.len() > 60, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for (item, proof) in &rows {
        let quoted: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        let tests = quoted.chunks_exact(2).filter(|pair| Path::new(pair[0]).extension().is_some_and(|e| e == "rs"));
        let mut n_tests = 0;
        for pair in tests {
            n_tests += 1;
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(pair[0]);
            let source = fs::read_to_string(path).unwrap_or_default();
            // The attribute stands right above the function.
            let lines: Vec<&str> = source.lines().map(str::trim).collect();
            let is_test =
                |i: usize| i > 0 && lines[..i].iter().rev().take_while(|l| !l.is_empty()).any(|l| *l == "#[test]");
            let name = format!("fn {}(", pair[1]);
            if !lines.iter().enumerate().any(|(i, line)| line.starts_with(&name) && is_test(i)) {
                wrong.push(format!("{item}: there is no test {} in {}", pair[1], pair[0]));
            }
        }
        if n_tests == 0 && !proof.contains(NOT_YET) {
            wrong.push(format!("{item}: neither a test nor `{NOT_YET}`"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let missing: Vec<&str> = rows.iter().filter(|(_, p)| p.contains(NOT_YET)).map(|(i, _)| i.as_str()).collect();
    println!("{} of {} items are not there yet: {missing:?}", missing.len(), rows.len());
}

#[test]
fn nothing_that_is_asked_for_is_left_out() {
    let Some(path) = common::shared("nothing_that_is_asked_for_is_left_out", "terminal.md") else { return };
    let asked = fs::read_to_string(path).unwrap();
    let plain = |text: &str| text.replace(['*', '`'], "").trim().trim_end_matches('.').to_owned();
    let items: Vec<String> = rows().iter().map(|(item, _)| plain(item)).collect();
    let (must, rest) = asked.split_once("## What nobody has").unwrap();
    let own = rest.split("\n## ").next().unwrap();
    let table = must.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| area"));
    let mut wanted: Vec<String> = Vec::new();
    for line in table {
        let list = plain(line.trim_matches('|').split_once('|').unwrap().1);
        // Commas within an item are looked for piece by piece.
        wanted.extend(list.split("; ").flat_map(|item| item.split(", ")).map(str::to_owned));
    }
    let numbered = own.lines().filter_map(|line| line.split_once(". ")).filter(|(n, _)| n.parse::<u8>().is_ok());
    wanted.extend(numbered.map(|(_, item)| plain(item)));
    assert!(wanted.len() > 50, "{wanted:?}");
    let missing: Vec<&String> = wanted.iter().filter(|w| !items.iter().any(|item| item.contains(w.as_str()))).collect();
    assert!(missing.is_empty(), "assets/FEATURES.md lacks {missing:#?}");
}
