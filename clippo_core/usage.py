"""What `python -m clippo_core COMMAND --help` says below the options."""

MODEL = """\
MODEL is one of
  a released name      clippo_b16_yfcc100m   (540 MiB, downloaded once;
                       `python -m clippo_core released` lists all six)
  a big_vision file    path/to/model.npz
  an exported file     path/to/model.safetensors
  a run's checkpoint   runs/demo-1a2b3c/checkpoints, or s3://bucket/run/checkpoints
"""

EXAMPLES = {
    "embed": (
        """\
Writes float32 unit rows; the dot product of two rows is their cosine.

  python -m clippo_core embed clippo_b16_yfcc100m --images photos/*.jpg --out photos.npz
  printf 'a dog\\na cat\\n' |
    python -m clippo_core embed model.safetensors --texts - --out texts.npz

texts.npz holds `texts` [n, d] and `text_names` [n]; photos.npz `images` [n, d] and `image_names`
[n]. One command may be given both --texts and --images.
"""
    ),
    "classify": (
        """\
Zero-shot: each name is put into every template, rendered as an image, and embedded by the same
tower as the photos.

  python -m clippo_core classify clippo_b16_yfcc100m dog.jpg --names dog cat 'ice cream'
  python -m clippo_core classify model.npz photos/*.jpg --names-file classes.txt \\
    --template 'a photo of a {}.' --template '{}' --json
"""
    ),
    "render": (
        """\
Renders texts as the tower reads them, ink on grey; the characters are those of the bitmap font
GNU Unifont.

Pages below one another:
  python -m clippo_core render 'a dog' 'ein Hund' --out dogs.png
Rows used, and glyphs cut off or missing, one line per text, then by language:
  python -m clippo_core render --file captions.txt --census
  cut -f1,3 pairs.tsv | python -m clippo_core render --file - --tagged --census
The shaped layout:
  python -m clippo_core render 'مرحبا' --layout shaped --image-px 384 --out hello.png
"""
    ),
    "convert": (
        """\
The endings say what is read and written.

A released model as one file, ready for Clippo.load:
  python -m clippo_core convert clippo_b16_yfcc100m clippo.safetensors
What big_vision reads (plain CLIPPO only):
  python -m clippo_core convert runs/demo-1a2b3c/checkpoints model.npz
Position embeddings resampled by the reference's rule:
  python -m clippo_core convert model.npz large.safetensors --image-px 384
A pretrained ViT (augreg .npz, timm .safetensors) for VQA:
  python -m clippo_core convert B_16.npz vit.safetensors --image-only
"""
    ),
    "tokenizer": (
        """\
Lower-cased, with byte fallback, ids as T5's; what model.tokenizer of 1T-CLIP and CLIP* names.

  python -m clippo_core tokenizer --config run.json --out captions.model    from a run's sources
  python -m clippo_core tokenizer en.txt de.txt --size 8000 --out ende.model
"""
    ),
    "preset": (
        """\
Prints the preset as JSON, to be edited and given to
`pyflyte run workflows pretrain_and_evaluate --config run.json`.

  python -m clippo_core preset                                                 their names
  python -m clippo_core preset slices --data DATA > run.json
  python -m clippo_core preset paper_b16 --set c4_share=0.25 \\
    --set train__zero_stage=2 --set name=mine
"""
    ),
    "analyse": (
        """\
Each line of captions.tsv is a file name, a tab and a text.

  python -m clippo_core analyse gap MODEL --images photos/ --captions captions.tsv
  python -m clippo_core analyse patches MODEL --out patches.html
  python -m clippo_core analyse lengths --texts en=en.txt --texts th=th.txt \\
    --tokenizer t5=spiece.model --out lengths.html
  python -m clippo_core analyse compare runs --beside 'CLIPPO B/16' 'CLIP* B/16' --out side-by-side
"""
    ),
    "promotions": """\
Every verdict, oldest first; * is the promoted model.

  python -m clippo_core promotions s3://clippo/runs/promoted-weekly.json
""",
    "promote": """\
MODEL is the number of a record (a refused model has one, too), or a checkpoint's address. Later
models are held against it, in all the metrics that its record has.

  python -m clippo_core promote runs/promoted-weekly.json 7 --why 'captions were cleaned'
  python -m clippo_core promote runs/promoted-weekly.json runs/mine-1a2b3c/checkpoints --why first
""",
    "rollback": """\
The model that was promoted before the present one; given twice, the one before that. To go to
another one: promote NUMBER.

  python -m clippo_core rollback s3://clippo/runs/promoted-weekly.json --why 'wrong colours'
""",
}
