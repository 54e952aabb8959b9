"""The sources: what COCO, Visual Genome, CC3M, CC12M, SBU, a table or a folder of others looks like."""
