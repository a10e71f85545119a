/// A transform with a name, which an org allows for everybody who may see an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: String,
    /// What it stands for, in the words of [`crate::grammar`].
    pub steps: String,
    /// Whether its renderings are made as soon as an image is stored.
    pub prewarm: bool,
}
