//! Every file that fuzzing began with or found, once more: whatever they are, they are rendered or refused.

use std::path::{Path, PathBuf};

use imagewell_imaging::look::look;
use imagewell_imaging::render::render;
use imagewell_imaging::svg::{is_svg, rasterise};
use imagewell_imaging::transform::{Fit, Outputs, Transform};
use imagewell_imaging::{Format, Limits};

const TARGETS: [(&str, Format); 10] = [
    ("avif", Format::Avif),
    ("bmp", Format::Bmp),
    ("gif", Format::Gif),
    ("heic", Format::Heic),
    ("ico", Format::Ico),
    ("jpeg", Format::Jpeg),
    ("jxl", Format::Jxl),
    ("png", Format::Png),
    ("tiff", Format::Tiff),
    ("webp", Format::WebP),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.flatten().map(|entry| entry.path()).collect()
}

#[test]
fn the_corpus_is_rendered_or_refused() {
    let limits = Limits { pixels_max: 4_000_000, ..Limits::default() };
    let mut rendered = 0;
    for (target, _) in TARGETS.into_iter().chain([("svg", Format::Png)]) {
        for file in files(&root().join("testdata/fuzz").join(target)) {
            let bytes = std::fs::read(&file).expect("reads");
            let still = Transform { outputs: Outputs::PNG, ..Transform::of(Fit::Inside(16, 16)) };
            rendered += usize::from(render(&bytes, &still, &limits).is_ok());
            let _ = render(&bytes, &Transform { animate: true, outputs: Outputs::WEBP, ..still }, &limits);
            let _ = look(&bytes, &limits);
            if is_svg(&bytes) {
                rendered += usize::from(rasterise(&bytes, &limits).is_ok());
            }
        }
    }
    assert!(rendered >= 2 * TARGETS.len(), "the seeds are good pictures: {rendered}");
}

/// A decoder without a target, or a target without seeds, would never be fuzzed.
#[test]
fn every_decoder_has_a_target_with_good_seeds() {
    for format in Format::ALL {
        assert!(TARGETS.iter().any(|(_, known)| *known == format), "{format}");
    }
    for (target, format) in TARGETS {
        assert!(root().join(format!("fuzz/targets/{target}.rs")).is_file(), "{target}");
        let is_good = |file: &PathBuf| Format::sniff(&std::fs::read(file).expect("reads")).is_ok_and(|found| found == format);
        assert!(files(&root().join("testdata/fuzz").join(target)).iter().any(is_good), "{target}");
    }
}
