//! `wayinfer completions SHELL` and `wayinfer man`: what a shell and `man` want to know, made of the command line's own
//! definition.

use clap::Args;
use clap_complete::Shell;

use super::output;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    Ok(output::print(&script(args.shell))?)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "wayinfer", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// All commands on one page: there is only one binary to ask about.
pub(super) fn man() -> anyhow::Result<()> {
    let mut command = super::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for subcommand in command.get_subcommands().filter(|c| c.get_name() != "help") {
        let man = clap_mangen::Man::new(subcommand.clone());
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    Ok(output::print(&String::from_utf8_lossy(&page))?)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for &shell in Shell::value_variants() {
            let script = script(shell);
            assert!(["quantize", "pull", "models", "--greedy"].iter().all(|word| script.contains(word)), "{shell}");
        }
    }
}
