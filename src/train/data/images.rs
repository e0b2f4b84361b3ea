//! A directory of images with a directory for each class, as torchvision's `ImageFolder` takes it: classes are numbered in the
//! alphabetical order of their names. A directory `train` of that kind may have `val` or `test` beside it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use image::{DynamicImage, ImageReader, imageops::FilterType};
use rayon::prelude::*;

use super::{
    Array, Content, Error, Fault, Options, Source, Stored,
    stored::{Bytes, IN_MEMORY},
};
use crate::tensor::{DType, Tensor};

const EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "bmp", "gif", "webp"];
/// Names of the part that is set apart for evaluation, the first one there is.
const HELD_OUT: [&str; 4] = ["val", "valid", "validation", "test"];
/// Bytes that decoding one image may take, and that it may take as float32 where it sets the size of all.
const MOST_DECODED: u64 = 512 << 20;

pub(super) fn matches(path: &Path) -> bool {
    path.is_dir() && (is_split(path) || has_classes(path))
}

pub(super) fn read(path: &Path, _: &Options) -> Result<Source, Error> {
    if !is_split(path) {
        let (arrays, classes) = read_classes(path)?;
        return Ok(Source { classes: Some(classes), ..Source::new(path, arrays) });
    }
    let (arrays, classes) = read_classes(&path.join("train"))?;
    let held_out = match HELD_OUT.iter().map(|name| path.join(name)).find(|path| has_classes(path)) {
        Some(path) => {
            let (arrays, found) = read_classes(&path)?;
            if found != classes {
                let (found, expected) = (found.join(", "), classes.join(", "));
                let why = format!("the classes are {found}; expected those of train: {expected}");
                return Err(Error::File { path, why });
            }
            Some(arrays)
        }
        None => None,
    };
    Ok(Source { classes: Some(classes), held_out, ..Source::new(path, arrays) })
}

/// A directory `train` that has classes, and no images of a class of that name.
fn is_split(path: &Path) -> bool {
    let train = path.join("train");
    has_classes(&train) && !entries(&train).iter().any(|entry| is_image(entry))
}

fn has_classes(path: &Path) -> bool {
    entries(path).iter().any(|entry| entry.is_dir() && !images(entry).is_empty())
}

/// What is in a directory, by name; hidden files are none of it. Empty if it cannot be read.
fn entries(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(|entry| entry.ok());
    let visible = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    let mut paths: Vec<PathBuf> = visible.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn is_image(path: &Path) -> bool {
    EXTENSIONS.iter().any(|extension| super::has_extension(path, extension))
}

/// The images below a directory, however deep. Links to directories are not followed: one may lead back here.
fn images(path: &Path) -> Vec<PathBuf> {
    let below = |entry: PathBuf| match entry.is_dir() {
        true if entry.is_symlink() => Vec::new(),
        true => images(&entry),
        false if is_image(&entry) => vec![entry],
        false => Vec::new(),
    };
    entries(path).into_iter().flat_map(below).collect()
}

/// Images and labels, and the names of the classes.
fn read_classes(path: &Path) -> Result<(Vec<Array>, Vec<String>), Error> {
    let (mut files, mut labels, mut classes) = (Vec::new(), Vec::new(), Vec::new());
    for directory in entries(path).into_iter().filter(|entry| entry.is_dir()) {
        let found = images(&directory);
        if found.is_empty() {
            let why =
                format!("no image of this class; expected files {}", EXTENSIONS.map(|e| format!(".{e}")).join(", "));
            return Err(Error::File { path: directory, why });
        }
        labels.extend(std::iter::repeat_n(classes.len() as i64, found.len()));
        files.extend(found);
        classes.push(directory.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    let bytes = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    let labels = Tensor::new(DType::I64, vec![labels.len()], bytes)
        .map_err(|error| Error::File { path: path.to_owned(), why: error.to_string() })?;
    let array = |name: &str, content, image| Array { name: name.to_owned(), content, image };
    let images = array("x", Content::Images(Images { files }), true);
    Ok((vec![images, array("y", Content::Numbers(Stored::of(labels)), false)], classes))
}

/// Images in files, of any size.
#[derive(Debug)]
pub struct Images {
    pub files: Vec<PathBuf>,
}

impl Images {
    /// Gives the images the size of `input`, or, where the model leaves it open, the one that they all have.
    pub(super) fn fit(self, input: &str, shape: &[Option<usize>]) -> Result<Decoder, Vec<Fault>> {
        let unfit = || vec![Fault::ImageInput { input: input.to_owned(), expected: shape.to_vec() }];
        let &[Some(channels @ (1 | 3)), height, width] = shape else {
            return Err(unfit());
        };
        let pixels = |height: usize, width: usize| height.saturating_mul(width).saturating_mul(channels) as u64;
        if let (Some(height), Some(width)) = (height, width) {
            if height == 0 || width == 0 || pixels(height, width) > MOST_DECODED {
                return Err(unfit());
            }
            return Ok(Decoder { files: self.files, channels, height, width });
        }
        let sizes: Vec<Result<(u32, u32), Fault>> = self.files.par_iter().map(|path| size(path)).collect();
        let first = sizes.iter().find_map(|size| size.as_ref().ok().copied()).unwrap_or((1, 1));
        let (height, width) = (height.unwrap_or(first.1 as usize), width.unwrap_or(first.0 as usize));
        if pixels(height, width) > MOST_DECODED {
            return Err(unfit());
        }
        let check = |(path, size): (&PathBuf, Result<(u32, u32), Fault>)| match size {
            Ok(size) if size != first => {
                let why = format!(
                    "{} × {} pixels; expected {} × {} as in {}: the model leaves the size open, so all images need the same",
                    size.0,
                    size.1,
                    first.0,
                    first.1,
                    self.files[0].display()
                );
                Some(Fault::Image { path: path.clone(), why })
            }
            Ok(_) => None,
            Err(fault) => Some(fault),
        };
        let taken =
            [channels, height, width, size_of::<f32>()].iter().fold(1, |n: u64, &by| n.saturating_mul(by as u64));
        if let Some(path) = self.files.first().filter(|_| taken > MOST_DECODED) {
            let why = format!(
                "{width} × {height} pixels take {taken} bytes as float32; expected at most {MOST_DECODED}: shrink the images"
            );
            return Err(vec![Fault::Image { path: path.clone(), why }]);
        }
        let faults: Vec<Fault> = self.files.iter().zip(sizes).filter_map(check).collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Decoder { files: self.files, channels, height, width })
    }
}

/// Width and height, of which a file's first bytes tell.
fn size(path: &Path) -> Result<(u32, u32), Fault> {
    let fault = |why: String| Fault::Image { path: path.to_owned(), why };
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    let reader = reader.map_err(|error| fault(error.to_string()))?;
    reader.into_dimensions().map_err(|error| fault(error.to_string()))
}

/// Images of one size, decoded when they are wanted.
#[derive(Debug)]
pub(super) struct Decoder {
    pub files: Vec<PathBuf>,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Decoder {
    /// Bytes of one image.
    pub fn row(&self) -> usize {
        self.channels.saturating_mul(self.height).saturating_mul(self.width)
    }

    /// All images in memory, where they find place there; else a look at the beginning of every file, and `None`.
    ///
    /// # Errors
    /// Every image that cannot be decoded.
    pub fn all(&self) -> Result<Option<Bytes>, Vec<Fault>> {
        let row = self.row();
        if (row as u64).saturating_mul(self.files.len() as u64) > IN_MEMORY {
            let faults: Vec<Fault> = self.files.par_iter().filter_map(|path| size(path).err()).collect();
            return if faults.is_empty() { Ok(None) } else { Err(faults) };
        }
        let mut bytes = vec![0; row * self.files.len()];
        let indexed = bytes.par_chunks_exact_mut(row.max(1)).enumerate();
        let faults: Vec<Fault> = indexed.filter_map(|(index, out)| self.decode(index, out).err()).collect();
        if faults.is_empty() { Ok(Some(Bytes::Memory(bytes))) } else { Err(faults) }
    }

    /// One image, channel after channel.
    pub fn decode(&self, index: usize, out: &mut [u8]) -> Result<(), Fault> {
        let path = &self.files[index];
        let fault = |why: String| Fault::Image { path: path.clone(), why };
        let mut reader = ImageReader::open(path)
            .and_then(ImageReader::with_guessed_format)
            .map_err(|error| fault(error.to_string()))?;
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(MOST_DECODED);
        reader.limits(limits);
        let image = reader.decode().map_err(|error| fault(error.to_string()))?;
        let image = if self.channels == 1 { grey(image) } else { DynamicImage::ImageRgb8(image.into_rgb8()) };
        let (width, height) = (self.width as u32, self.height as u32);
        let resized = (image.width(), image.height()) != (width, height);
        // Triangle is the bilinear filter that widens when it shrinks an image, as Pillow's.
        let image = if resized { image.resize_exact(width, height, FilterType::Triangle) } else { image };
        let plane = self.height * self.width;
        for (at, pixel) in image.as_bytes().chunks_exact(self.channels).enumerate() {
            for (channel, value) in pixel.iter().enumerate() {
                out[channel * plane + at] = *value;
            }
        }
        Ok(())
    }
}

/// Luma by ITU-R BT.601 in Pillow's integers; grey images as they are.
fn grey(image: DynamicImage) -> DynamicImage {
    if !image.color().has_color() {
        return DynamicImage::ImageLuma8(image.into_luma8());
    }
    let rgb = image.into_rgb8();
    let mut luma = image::GrayImage::new(rgb.width(), rgb.height());
    for (from, to) in rgb.pixels().zip(luma.pixels_mut()) {
        let [r, g, b] = from.0.map(u32::from);
        to.0 = [((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16) as u8];
    }
    DynamicImage::ImageLuma8(luma)
}
