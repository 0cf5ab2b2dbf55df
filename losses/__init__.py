"""The three losses of the method. Each is a pure function and its module face; no devices, no process groups."""

from losses.scan import SCANLoss, ScanTerms, cluster_entropy, scan_loss
from losses.selflabel import ConfidenceBasedCE, ConfidenceTerms, confidence_based_ce
from losses.simclr import SimCLRLoss, simclr_loss

__all__ = [
    "ConfidenceBasedCE",
    "ConfidenceTerms",
    "SCANLoss",
    "ScanTerms",
    "SimCLRLoss",
    "cluster_entropy",
    "confidence_based_ce",
    "scan_loss",
    "simclr_loss",
]
