//! tui
#[derive(Debug)]
pub struct ChatOptions {
    pub model: Option<std::path::PathBuf>,
    pub models_dir: std::path::PathBuf,
    pub sessions_dir: Option<std::path::PathBuf>,
    pub sampling: crate::sampler::SamplingParams,
    pub system: Option<String>,
}
pub fn run(_: crate::worker::WorkerHandle, _: ChatOptions) -> Result<(), std::io::Error> {
    Ok(())
}
