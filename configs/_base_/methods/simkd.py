# SimKD: the student gets the teacher's classifier and learns the map that it classifies (Chen et al., CVPR 2022)
r"""
x
"""

simkd = dict(_scope_='mmrazor', type='SimKDDistiller')
