"""File types by suffix and by first bytes."""

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v"}
    | {".mk3d", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm"}
    | {".rmvb", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".xvid", ".y4m"}
)
"""Suffixes that mark a file as a video, even a broken one. Files with an unknown suffix are opened to find out."""

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
"""Suffixes of the frames of a video that is stored as a folder of images."""

NOT_VIDEO_SUFFIXES = frozenset(
    PICTURE_SUFFIXES
    | {".avif", ".bmp", ".dng", ".exr", ".heic", ".ico", ".jfif", ".pgm", ".ppm", ".psd", ".svg", ".tif", ".tiff", ".webp"}
    | {".ass", ".bat", ".c", ".cfg", ".conf", ".csv", ".doc", ".docx", ".dvc", ".htm", ".html", ".ini", ".ipynb", ".js"}
    | {".json", ".jsonl", ".log", ".lrc", ".m3u", ".m3u8", ".md", ".md5", ".mpd", ".nfo", ".odt", ".pdf", ".pls", ".py"}
    | {".rst", ".rtf", ".sh", ".sha1", ".sha256", ".srt", ".ssa", ".toml", ".torrent", ".tsv", ".txt", ".url", ".vtt"}
    | {".xls", ".xlsx", ".xml", ".yaml", ".yml"}
    | {".aac", ".aif", ".aiff", ".flac", ".m4a", ".mid", ".mp3", ".oga", ".opus", ".wav", ".wma"}
    | {".7z", ".bz2", ".gz", ".iso", ".rar", ".tar", ".tbz2", ".tgz", ".txz", ".xz", ".zip", ".zst"}
    | {".db", ".dll", ".exe", ".h5", ".hdf5", ".mat", ".npy", ".npz", ".onnx", ".parquet", ".pickle", ".pkl", ".pt"}
    | {".pth", ".pyc", ".pyth", ".safetensors", ".so", ".sqlite", ".tfrecord"}
)
"""Suffixes of images, text, audio, archives and data, which the search for videos never opens."""


def holds_text(head: bytes) -> bool:
    """Return True if a file that begins with these bytes is text; FFmpeg would render it, or follow it if it is a playlist.

    Raw YUV4MPEG video begins with a line of text but isn't text.
    """
    return not head.startswith(b"YUV4MPEG2") and not any(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in head)
