//! Debian's cloud kernels: which are offered, and one of them on disk.
//!
//! In: a series such as `6.12`. Out: the image and the modules of its newest version, from a cache
//! below the target directory. What is offered is asked once a day; where the mirror can't be
//! reached, the newest version in the cache serves.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};

use crate::{command, setup::PrivateApt, workspace::Workspace};

/// What is supported, oldest first: 6.1 is the oldest that works, 6.12 and 6.18 have long-term
/// support, 7 is the newest there is.
pub(crate) const SERIES: [&str; 4] = ["6.1", "6.12", "6.18", "7"];

/// The Debian releases that have kernels of these series.
const SUITES: &[&str] = &["bookworm", "trixie", "trixie-backports"];
const SUFFIX: &str = "-cloud-amd64";
/// In the cache.
const IMAGE: &str = "vmlinuz";
const DAY: Duration = Duration::from_hours(24);

/// A kernel on disk.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Debian's version, such as `6.12.107+deb13`.
    pub version: String,
    /// The image to boot.
    pub image: PathBuf,
    /// The directory with its modules and `modules.dep`.
    pub modules: PathBuf,
}

/// The newest kernel of a series.
pub(crate) fn newest(workspace: &Workspace, series: &str) -> Result<Kernel> {
    let cache = workspace.target.join("vm/kernels");
    fs::create_dir_all(&cache).with_context(|| format!("can't create {}", cache.display()))?;
    let apt = PrivateApt::create(&workspace.target.join("vm/apt"), SUITES)?;
    let offered = offered(&apt, &workspace.target.join("vm/offered"));
    let (version, packages) = match &offered {
        Ok(packages) => (newest_of(series, packages.iter().filter_map(|it| version(it))), packages),
        Err(error) => {
            println!("  kernels in the cache serve: {error:#}");
            let cached: Vec<_> = fs::read_dir(&cache)?
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect();
            (newest_of(series, cached.iter().map(String::as_str)), &Vec::new())
        }
    };
    let version = version.with_context(|| {
        format!("no cloud kernel of series {series} is offered; there are {}", SERIES.join(", "))
    })?;
    let folder = cache.join(&version);
    if !folder.is_dir() {
        fetch(&apt, packages, &version, &folder)?;
    }
    let release = format!("{version}{SUFFIX}");
    Ok(Kernel {
        image: folder.join(IMAGE),
        modules: folder.join("lib/modules").join(release),
        version,
    })
}

/// Names of all packages of kernels that the mirror has; asked again after a day.
fn offered(apt: &PrivateApt, list: &Path) -> Result<Vec<String>> {
    let age = fs::metadata(list).and_then(|metadata| metadata.modified());
    let fresh = age.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < DAY));
    if !fresh {
        apt.update()?;
        let names = command::capture(apt.command("apt-cache").args(["pkgnames", "linux-"]))?;
        fs::write(list, names).with_context(|| format!("can't write {}", list.display()))?;
    }
    let names =
        fs::read_to_string(list).with_context(|| format!("can't read {}", list.display()))?;
    Ok(names.lines().filter(|name| name.ends_with(SUFFIX)).map(str::to_owned).collect())
}

/// From 6.19 on the image and its modules are in packages of their own, and from 7.2 on the image is
/// beside the modules.
fn fetch(apt: &PrivateApt, offered: &[String], version: &str, folder: &Path) -> Result<()> {
    let release = format!("{version}{SUFFIX}");
    let parts = ["image", "binary", "modules"].map(|part| format!("linux-{part}-{release}"));
    let packages: Vec<_> = parts.into_iter().filter(|name| offered.contains(name)).collect();
    let unfinished = folder.with_extension("part");
    apt.unpack(&packages, &unfinished)?;
    let merged = unfinished.join("usr/lib");
    if merged.is_dir() {
        fs::rename(&merged, unfinished.join("lib")).context("can't move the modules")?;
    }
    let places = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
    let image = places.iter().map(|place| unfinished.join(place)).find(|place| place.is_file());
    let image = image.with_context(|| format!("no image in {}", packages.join(" ")))?;
    fs::rename(image, unfinished.join(IMAGE)).context("can't move the image")?;
    let mut depmod = Command::new(command::find("depmod").unwrap_or_else(|| "depmod".into()));
    depmod.arg("--basedir").arg(&unfinished).arg(release);
    command::run_quietly("sorting modules", &mut depmod)?;
    fs::rename(&unfinished, folder)
        .with_context(|| format!("can't rename {}", unfinished.display()))
}

/// The version that a package is the image of; unsigned images have another ending.
fn version(package: &str) -> Option<&str> {
    package.strip_prefix("linux-image-")?.strip_suffix(SUFFIX)
}

/// The newest version whose first numbers are those of the series.
fn newest_of<'a>(series: &str, versions: impl Iterator<Item = &'a str>) -> Option<String> {
    let wanted = numbers(series);
    versions
        .filter(|version| !wanted.is_empty() && numbers(version).starts_with(&wanted))
        .max_by_key(|version| numbers(version))
        .map(str::to_owned)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: [&str; 9] = [
        "linux-image-6.1.0-47-cloud-amd64",
        "linux-image-6.1.0-50-cloud-amd64",
        "linux-image-6.1.0-50-cloud-amd64-unsigned",
        "linux-image-6.12.94+deb12-cloud-amd64",
        "linux-image-6.12.107+deb13-cloud-amd64",
        "linux-image-7.2.13+deb13-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
        "linux-binary-7.9.1+deb13-cloud-amd64",
        "linux-image-cloud-amd64",
    ];

    fn newest(series: &str) -> Option<String> {
        newest_of(series, OFFERED.iter().filter_map(|package| version(package)))
    }

    #[test]
    fn newest_version_is_chosen_by_numbers_not_by_letters() {
        assert_eq!(newest("6.1").as_deref(), Some("6.1.0-50"));
        assert_eq!(newest("6.12").as_deref(), Some("6.12.107+deb13"));
    }

    #[test]
    fn series_of_one_number_has_all_its_minor_versions() {
        assert_eq!(newest("7").as_deref(), Some("7.3.4+deb13"));
        assert_eq!(newest("7.2").as_deref(), Some("7.2.13+deb13"));
    }

    #[test]
    fn unknown_series_has_no_version() {
        assert_eq!(newest("6.18"), None);
        assert_eq!(newest("newest"), None);
        assert_eq!(newest(""), None);
    }
}
