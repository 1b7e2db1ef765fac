"""What the plugin brings, in Gentle's own words. It loads neither torch nor transformers."""

from __future__ import annotations

from gentle_core.api import (
    AugmentationSpec,
    DatasetSpec,
    EncoderSpec,
    ModalitySpec,
    TaskSpec,
    hookimpl,
)
from gentle_protein import augment
from gentle_protein.cdconv import config as cdconv
from gentle_protein.chain import SEQUENCE, STRUCTURE
from gentle_protein.datasets import config as datasets
from gentle_protein.esm2 import config as esm2
from gentle_protein.tasks import config as tasks

BOTH = (SEQUENCE, STRUCTURE)

_CDCONV = "Fan et al. Continuous-Discrete Convolution for Geometry-Sequence Modeling in Proteins. ICLR 2023"
_DEEPFRI = (
    "Gligorijević et al. Structure-based protein function prediction using graph convolutional networks. "
    "Nature Communications 12, 2021"
)


@hookimpl
def gentle_modalities() -> list[ModalitySpec]:
    return [
        ModalitySpec(name=SEQUENCE, summary="One-letter amino-acid codes of a chain (str)"),
        ModalitySpec(name=STRUCTURE, summary="Cα coordinates of a chain in Å (gentle_protein.chain.Structure)"),
    ]


@hookimpl
def gentle_encoders() -> list[EncoderSpec]:
    return [
        EncoderSpec(
            name="esm2",
            modality=SEQUENCE,
            config=esm2.Esm2Config,
            target="gentle_protein.esm2.encoder:build",
            parameters=esm2.parameters,
            example={"model": esm2.SHIPPED},
            summary="ESM-2 protein language model, all released sizes and a small one shipped with the package",
            licence="MIT",
            citation="Lin et al. Evolutionary-scale prediction of atomic-level protein structure with a language "
            "model. Science 379, 2023",
        ),
        EncoderSpec(
            name="cdconv",
            modality=STRUCTURE,
            config=cdconv.CDConvConfig,
            target="gentle_protein.cdconv.encoder:build",
            parameters=cdconv.parameters,
            summary="Continuous-discrete convolution on Cα coordinates",
            licence="MIT",
            citation=_CDCONV,
        ),
        EncoderSpec(
            name="shape",
            modality=STRUCTURE,
            target="gentle_protein.shape:build",
            parameters=lambda _: 0,
            summary="A hand-made description of a Cα trace: local geometry, contacts, size",
        ),
    ]


@hookimpl
def gentle_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="pdb-sample",
            modalities=BOTH,
            config=datasets.PdbSampleConfig,
            target="gentle_protein.datasets.pdb_sample:build",
            summary="6,400 real PDB chains of 40-164 residues, shipped; no relatives across splits",
            licence="CC0-1.0",
            citation="Berman et al. The Protein Data Bank. Nucleic Acids Research 28, 2000",
        ),
        DatasetSpec(
            name="structures",
            example="gentle_protein.examples:structures",
            modalities=BOTH,
            config=datasets.StructuresConfig,
            target="gentle_protein.datasets.structures:build",
            summary="A folder of PDB or mmCIF files, and optionally a FASTA of sequences without structures",
        ),
        DatasetSpec(
            name="cath",
            example="gentle_protein.examples:cath",
            modalities=BOTH,
            config=datasets.CathConfig,
            target="gentle_protein.datasets.cath:build",
            summary="CATH 4.2 chains in the chain_set.jsonl layout",
            citation="Ingraham et al. Generative models for graph-based protein design. NeurIPS 2019",
        ),
    ]


@hookimpl
def gentle_augmentations() -> list[AugmentationSpec]:
    return [
        AugmentationSpec(
            name="residue-dropout",
            modalities=(SEQUENCE,),
            config=augment.ResidueRate,
            target="gentle_protein.augment:build_residue_dropout",
            summary="Replace residues by X, the unknown residue",
        ),
        AugmentationSpec(
            name="residue-mask",
            modalities=(SEQUENCE,),
            config=augment.ResidueRate,
            target="gentle_protein.augment:build_residue_mask",
            summary="Replace residues by the mask token of the language model",
        ),
        AugmentationSpec(
            name="coordinate-jitter",
            modalities=(STRUCTURE,),
            config=augment.JitterConfig,
            target="gentle_protein.augment:build_coordinate_jitter",
            summary="Add normal noise to the coordinates",
        ),
        AugmentationSpec(
            name="random-rotation",
            modalities=(STRUCTURE,),
            target="gentle_protein.augment:build_random_rotation",
            summary="Turn the chain about its centre",
        ),
        AugmentationSpec(
            name="residue-crop",
            modalities=BOTH,
            config=augment.CropConfig,
            target="gentle_protein.augment:build_residue_crop",
            summary="Keep a contiguous window, the same one of a sequence and of its structure",
        ),
    ]


@hookimpl
def gentle_tasks() -> list[TaskSpec]:
    return [
        TaskSpec(
            name="fold",
            example="gentle_protein.examples:fold",
            modalities=BOTH,
            config=tasks.FoldConfig,
            target="gentle_protein.tasks.classify:build_fold",
            summary="SCOP 1.75 fold accuracy of a linear probe and of the nearest neighbour",
            citation="Hou et al. DeepSF: deep convolutional neural network for mapping protein sequences to folds. "
            "Bioinformatics 34, 2018",
        ),
        TaskSpec(
            name="reaction",
            example="gentle_protein.examples:reaction",
            modalities=BOTH,
            config=tasks.ReactionConfig,
            target="gentle_protein.tasks.classify:build_reaction",
            summary="Accuracy over 384 enzyme reaction classes of a linear probe and of the nearest neighbour",
            citation="Hermosilla et al. Intrinsic-Extrinsic Convolution and Pooling for Learning on 3D Protein "
            "Structures. ICLR 2021",
        ),
        TaskSpec(
            name="ec",
            example="gentle_protein.examples:ec",
            modalities=BOTH,
            config=tasks.EcConfig,
            target="gentle_protein.tasks.function:build_ec",
            summary="Enzyme Commission numbers: protein-centric Fmax of a linear probe",
            citation=_DEEPFRI,
        ),
        TaskSpec(
            name="go",
            example="gentle_protein.examples:go",
            modalities=BOTH,
            config=tasks.GoConfig,
            target="gentle_protein.tasks.function:build_go",
            summary="Gene Ontology terms: protein-centric Fmax of a linear probe",
            citation=_DEEPFRI,
        ),
    ]
