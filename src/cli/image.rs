//! `bootproof image`: what lanes ask for and what is built of it, building ahead of a run, and the lock of versions.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::lane::{pretty_json, print};
use super::print::print_error;
use crate::error::{Context as _, Error, Result};
use crate::image::{ImageLock, ImageProgress, ImageRequest, ImageStore, LOCK_FILE, plan_image};
use crate::lane::units::Size;
use crate::lane::{Catalog, nearest, open};
use crate::plan::model::{LockState, PlannedImage};
use crate::plan::{choose_source, images_needed};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the images that lanes use: whether they are locked and built, and what they take
    List {
        /// As JSON, on standard output
        #[arg(long)]
        json: bool,
    },
    /// Build images ahead of a run; those that are there are left as they are
    Build {
        #[command(flatten)]
        selection: Selection,
        /// Fail where the archive no longer has the image lock's versions
        #[arg(long)]
        locked: bool,
    },
    /// Make a bundle of a `debian` image, which machines install onto their own disks; prints its digest and size
    Bundle {
        /// The image's name
        #[arg(value_name = "NAME")]
        name: String,
        /// Where the bundle goes
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Renew the image lock: resolve the newest versions and write profiles/images.lock
    Lock {
        #[command(flatten)]
        selection: Selection,
    },
}

#[derive(clap::Args)]
struct Selection {
    /// Names of images or of lanes; all images when none is given
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::List { json } => list(context, json),
        Command::Build { selection, locked } => runtime()?.block_on(build(context, &selection, locked)),
        Command::Bundle { name, output } => runtime()?.block_on(bundle(context, name, &output)),
        Command::Lock { selection } => runtime()?.block_on(lock(context, &selection)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .infrastructure(|| "failed to start the runtime".into())
}

/// An image and the lanes that use it.
struct UsedImage {
    request: ImageRequest,
    lanes: Vec<String>,
}

/// Every image that a lane's machine uses, each recipe once; the built-in `tiny` whether or not a lane uses it.
fn used_images(context: &Context) -> Result<Vec<UsedImage>> {
    let tiny = ImageRequest::tiny(context.project_root.clone());
    let mut images = vec![UsedImage { request: tiny, lanes: Vec::new() }];
    for entry in &Catalog::scan(&context.project_root)?.lanes {
        let lane = match open(&entry.path, &context.project_root).and_then(|file| file.lane(&[])) {
            Ok(lane) => lane,
            Err(error) => {
                // The other lanes' images are no worse for it.
                print_error(context, &error);
                continue;
            }
        };
        for (name, image) in images_needed(&lane) {
            let known = images.iter_mut().find(|known| known.request.name == name && known.request.image == *image);
            match known {
                Some(known) => known.lanes.push(entry.name.clone()),
                None => images.push(UsedImage {
                    request: ImageRequest {
                        name: name.into(),
                        image: image.clone(),
                        source: choose_source(name, image, None)?,
                        base_directory: context.project_root.clone(),
                        locked: false,
                    },
                    lanes: vec![entry.name.clone()],
                }),
            }
        }
    }
    Ok(images)
}

fn select(images: Vec<UsedImage>, names: &[String]) -> Result<Vec<UsedImage>> {
    let is_called = |image: &UsedImage, name: &String| image.request.name == *name || image.lanes.contains(name);
    for name in names {
        if !images.iter().any(|image| is_called(image, name)) {
            let known = images
                .iter()
                .flat_map(|image| std::iter::once(&image.request.name).chain(&image.lanes))
                .map(String::as_str);
            let error = Error::usage(format!("no image and no lane is called `{name}`"));
            return Err(match nearest(name, known) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint("`bootproof image list` shows the images that lanes use"),
            });
        }
    }
    let wanted = |image: &UsedImage| names.is_empty() || names.iter().any(|name| is_called(image, name));
    Ok(images.into_iter().filter(wanted).collect())
}

fn list(context: &Context, as_json: bool) -> Result<ExitCode> {
    let store = ImageStore::open(&context.work_root, &context.project_root)?;
    let stored = store.list()?;
    let mut rows = vec![["IMAGE", "SOURCE", "LOCK", "BUILT", "ON DISK", "LANES"].map(String::from)];
    let mut values = Vec::new();
    for UsedImage { request, lanes } in used_images(context)? {
        let planned = match plan_image(&context.work_root, &context.project_root, &request) {
            Ok(planned) => planned,
            Err(error) => {
                print_error(context, &error);
                continue;
            }
        };
        let usage = stored
            .iter()
            .find(|image| Some(&image.record.digest) == planned.digest.as_ref())
            .map(|image| image.disk_usage);
        values.push(json!({
            "name": request.name, "lanes": lanes, "source": planned.source, "lock": planned.lock,
            "present": planned.present, "digest": planned.digest, "recipe_digest": planned.recipe_digest,
            "disk_usage": usage,
        }));
        rows.push([
            request.name,
            planned.source.to_string(),
            lock_word(planned.lock).into(),
            built_word(&planned),
            usage.filter(|_| planned.present).map_or_else(|| "-".into(), approximate),
            if lanes.is_empty() { "-".into() } else { lanes.join(", ") },
        ]);
    }
    if as_json { print(&pretty_json(&values)?) } else { print(&table(&rows)) }
}

fn lock_word(lock: LockState) -> &'static str {
    match lock {
        LockState::Locked => "locked",
        LockState::Drifted => "drifted",
        LockState::Unlocked => "unlocked",
        LockState::NotNeeded => "-",
    }
}

/// Enough of the digest to tell images apart.
fn built_word(planned: &PlannedImage) -> String {
    match &planned.digest {
        Some(digest) if planned.present => digest.chars().take("sha256:".len() + 12).collect(),
        _ => "no".into(),
    }
}

/// In whole MiB: nobody compares bytes here.
fn approximate(bytes: u64) -> String {
    Size::mebibytes(bytes.div_ceil(1 << 20)).to_string()
}

/// Columns as wide as their widest cell; the last one as it comes.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(&format!("{cell:<width$}  ", width = width(column)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

async fn build(context: &Context, selection: &Selection, locked: bool) -> Result<ExitCode> {
    let images = select(used_images(context)?, &selection.names)?;
    let store = ImageStore::open(&context.work_root, &context.project_root)?;
    let cancel = cancelled_by_signals()?;
    let progress = Plain { quiet: context.quiet };
    for UsedImage { mut request, .. } in images {
        request.locked = locked;
        let image = store.ensure(&request, &progress, cancel.clone()).await?;
        let how = if image.built { "built" } else { "there already" };
        print(&format!("{} {} {how}, {}\n", request.name, image.digest, lock_word(image.lock)))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn bundle(context: &Context, name: String, output: &Path) -> Result<ExitCode> {
    let images = select(used_images(context)?, std::slice::from_ref(&name))?;
    let image = images.into_iter().find(|image| image.request.name == name);
    let UsedImage { request, .. } = image.ok_or_else(|| {
        Error::usage(format!("`{name}` is a lane, and a bundle is made of one image"))
            .hint("`bootproof image list` shows the images that lanes use")
    })?;
    let store = ImageStore::open(&context.work_root, &context.project_root)?;
    let bundle = store.bundle(&request, &Plain { quiet: context.quiet }, cancelled_by_signals()?).await?;
    std::fs::copy(&bundle.path, output).usage(|| format!("failed to write `{}`", output.display()))?;
    print(&format!("{name} {} {} bytes\n", bundle.digest, bundle.size))
}

async fn lock(context: &Context, selection: &Selection) -> Result<ExitCode> {
    let images = select(used_images(context)?, &selection.names)?;
    let store = ImageStore::open(&context.work_root, &context.project_root)?;
    let cancel = cancelled_by_signals()?;
    let progress = Plain { quiet: context.quiet };
    // Renewing all of it also forgets what no lane asks for any more.
    let mut lock =
        if selection.names.is_empty() { ImageLock::default() } else { ImageLock::load(&context.project_root)? };
    for UsedImage { request, .. } in images {
        let Some((asked, packages)) = store.resolve_versions(&request, &progress, cancel.clone()).await? else {
            continue;
        };
        lock.set(&request.name, &asked, &packages);
        print(&format!("{} {} packages of {}\n", request.name, packages.len(), asked.suite))?;
    }
    lock.save(&context.project_root)?;
    if !context.quiet {
        eprintln!("wrote {LOCK_FILE}");
    }
    Ok(ExitCode::SUCCESS)
}

/// A token that the first SIGINT, SIGTERM or SIGHUP cancels: builders then end their tools and leave nothing half-made.
pub(super) fn cancelled_by_signals() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut stream = signal(kind).infrastructure(|| "failed to listen for signals".into())?;
        let token = token.clone();
        tokio::spawn(async move {
            stream.recv().await;
            token.cancel();
        });
    }
    Ok(token)
}

/// One line on standard error for each stage.
struct Plain {
    quiet: bool,
}

impl ImageProgress for Plain {
    fn stage(&self, image: &str, what: &str) {
        if !self.quiet {
            eprintln!("{image}: {what}");
        }
    }

    fn warning(&self, image: &str, text: &str) {
        eprintln!("warning: {image}: {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, lanes: &[&str]) -> UsedImage {
        let mut request = ImageRequest::tiny("/".into());
        request.name = name.into();
        UsedImage { request, lanes: lanes.iter().map(|lane| lane.to_string()).collect() }
    }

    fn names(images: &[UsedImage]) -> Vec<&str> {
        images.iter().map(|image| image.request.name.as_str()).collect()
    }

    #[test]
    fn images_are_selected_by_their_own_name_or_a_lanes() {
        let all = || vec![image("tiny", &["smoke"]), image("node", &["quickstart"])];
        assert_eq!(names(&select(all(), &[]).unwrap()), ["tiny", "node"]);
        assert_eq!(names(&select(all(), &["quickstart".into()]).unwrap()), ["node"]);
        assert_eq!(names(&select(all(), &["tiny".into()]).unwrap()), ["tiny"]);
        let error = select(all(), &["quickstat".into()]).err().unwrap();
        assert_eq!(error.hints(), ["did you mean `quickstart`?"]);
    }

    #[test]
    fn a_table_is_aligned_and_has_no_blanks_at_line_ends() {
        let rows = [["A", "B"], ["long", "x"]].map(|row| row.map(String::from));
        assert_eq!(table(&rows), "A     B\nlong  x\n");
    }
}
